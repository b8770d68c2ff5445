//! The dashboard's files, as a browser gets them.

use reqwest::{Method, Response, StatusCode};

use crate::harness::Server;

async fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = server.api.request(Method::GET, path);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.send().await.expect("an answer")
}

#[tokio::test]
async fn files_are_compressed_for_those_who_can_read_it_and_sent_again_only_when_changed() {
    let server = Server::start().await;
    let plain = get(&server, "/", &[]).await;
    assert_eq!(plain.status(), StatusCode::OK);
    assert_eq!(plain.headers()["cache-control"], "no-cache");
    assert!(!plain.headers().contains_key("content-encoding"));
    let policy = plain.headers()["content-security-policy"].to_str().expect("a policy").to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let page = plain.text().await.expect("a page");
    let (_, script) = page.split_once("src=\"/").expect("a script");
    let script = format!("/{}", script.split('"').next().expect("its path"));

    let compressed = get(&server, &script, &[("accept-encoding", "gzip")]).await;
    assert_eq!(compressed.headers()["content-encoding"], "gzip");
    assert_eq!(compressed.headers()["cache-control"], "public, max-age=31536000, immutable");
    let etag = compressed.headers()["etag"].to_str().expect("a tag").to_owned();
    let amount = compressed.bytes().await.expect("a script").len();
    let whole = get(&server, &script, &[]).await;
    assert_eq!(whole.headers()["etag"], etag.as_str());
    assert!(amount * 2 < whole.bytes().await.expect("a script").len());

    for headers in
        [&[("if-none-match", etag.as_str())][..], &[("if-none-match", etag.as_str()), ("accept-encoding", "gzip")]]
    {
        let unchanged = get(&server, &script, headers).await;
        assert_eq!(unchanged.status(), StatusCode::NOT_MODIFIED);
        assert!(unchanged.bytes().await.expect("nothing").is_empty());
    }
    assert_eq!(get(&server, "/assets/nothing.js", &[]).await.status(), StatusCode::NOT_FOUND);
    server.stop().await;
}
