//! Exports in a store that speaks S3's protocol: a real server of it, by others.

use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use reqwest::{Method, StatusCode};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::export_files::read;
use crate::exports::{export, file, sha256};
use crate::faults::Process;
use crate::harness::{connect, new_database};

const BUCKET: &str = "files";
const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

/// An S3 server that checks signatures, with one bucket.
struct S3 {
    address: SocketAddr,
    directory: TempDir,
}

impl S3 {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join(BUCKET)).expect("a bucket");
        let mut builder = S3ServiceBuilder::new(FileSystem::new(directory.path()).expect("a file system"));
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        Self { address, directory }
    }

    /// A server of ours that keeps its files here, set up as operators do it.
    async fn server(&self, name: &str, secret: &str) -> Process {
        let settings = [
            ("NEWCYCLE_EXPORT_STORE", &*format!("s3://{BUCKET}/of/ours")),
            ("AWS_ENDPOINT", &*format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", secret),
        ];
        Process::start(name, "", &settings).await
    }

    /// The files in the bucket.
    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut directories = vec![self.directory.path().join(BUCKET)];
        while let Some(directory) = directories.pop() {
            for entry in directory.read_dir().expect("a directory").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let name = path.strip_prefix(self.directory.path()).expect("in it");
                    files.push(name.display().to_string());
                }
            }
        }
        files
    }
}

#[tokio::test]
async fn files_lie_in_a_bucket_are_read_in_parts_and_go() {
    let s3 = S3::start().await;
    let name = new_database().await;
    let server = s3.server(&name, SECRET).await;
    // More than one part of an upload has room for.
    sqlx::query("insert into users select from generate_series(1, 300000)")
        .execute(&connect(&name).await.pool)
        .await
        .expect("users");
    let made = export(&server.api, &json!({"dataset": "users", "format": "csv"})).await;
    assert_eq!(made["state"], "complete", "{made}");
    let id = made["id"].as_str().expect("an id");
    assert_eq!(s3.files(), [format!("{BUCKET}/of/ours/{id}/1.csv")]);
    let bytes = file(&server.api, &made).await;
    assert!(bytes.len() > 8 << 20);
    assert_eq!(sha256(&bytes), made["result"]["sha256"].as_str().expect("a digest"));
    assert_eq!(read("csv", "none", &bytes).1.len(), 300_000);
    let path = format!("/exports/{id}");
    let part = server.api.request(Method::GET, &format!("{path}/data")).header("range", "bytes=9000000-9000099");
    let part = part.send().await.expect("an answer");
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.bytes().await.expect("bytes"), bytes[9_000_000..9_000_100]);
    let deleted = server.api.request(Method::DELETE, &path).send().await.expect("an answer");
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(s3.files(), [] as [String; 0]);
}

#[tokio::test]
async fn a_store_that_says_no_fails_the_export_with_words() {
    let s3 = S3::start().await;
    let server = s3.server(&new_database().await, "wrong").await;
    let made: Value = export(&server.api, &json!({"dataset": "users", "format": "csv"})).await;
    assert_eq!(made["state"], "failed", "{made}");
    let reason = made["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("The store does not let the server write"), "{reason}");
}
