//! Rows are created, found, listed and refused; and what they say about who owns what, now and then.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::Api;
use crate::harness::Server;

/// A server whose ledger has one of everything, so that rows of every kind can be created.
struct World {
    server: Server,
    base_item: String,
    user: String,
    item: String,
}

/// A kind of row: its path, a row that would be accepted, and the name of its moment.
struct Kind {
    path: &'static str,
    valid: Value,
    moment: &'static str,
}

impl Kind {
    /// The valid row with another value in that field.
    fn with(&self, field: &str, value: impl Into<Value>) -> Value {
        let mut row = self.valid.clone();
        row[field] = value.into();
        row
    }

    /// The valid row without that field.
    fn without(&self, field: &str) -> Value {
        let mut row = self.valid.clone();
        row.as_object_mut().expect("a row").remove(field);
        row
    }
}

impl World {
    async fn new() -> Self {
        let server = Server::start().await;
        let base_item = server.api.base_item().await;
        let user = server.api.user().await;
        let item = server.api.item(&base_item).await;
        server.api.create("/transfers", json!({"item_id": item, "owner_id": user})).await;
        Self { server, base_item, user, item }
    }

    fn api(&self) -> &Api {
        &self.server.api
    }

    fn kinds(&self) -> [Kind; 4] {
        [
            Kind { path: "/base-items", valid: json!({"description": "lamp"}), moment: "created_at" },
            Kind { path: "/users", valid: json!({}), moment: "created_at" },
            Kind { path: "/items", valid: json!({"base_item_id": self.base_item}), moment: "created_at" },
            Kind {
                path: "/transfers",
                valid: json!({"item_id": self.item, "owner_id": self.user}),
                moment: "timestamp",
            },
        ]
    }
}

fn id() -> String {
    Uuid::new_v4().to_string()
}

fn text(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn moment(text: &str) -> DateTime<Utc> {
    text.parse().expect("a moment")
}

#[tokio::test]
async fn a_created_row_is_found_where_its_location_says() {
    let world = World::new().await;
    for kind in world.kinds() {
        let request = world.api().request(Method::POST, kind.path).json(&kind.valid);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::CREATED, "{}", kind.path);
        let location = response.headers()["location"].to_str().expect("text").to_owned();
        let row: Value = response.json().await.expect("the row");
        assert_eq!(location, format!("{}/{}", kind.path, row["id"].as_str().expect("an id")));
        for (field, value) in kind.valid.as_object().expect("a row") {
            assert_eq!(&row[field], value, "{} {field}", kind.path);
        }
        let age = Utc::now() - moment(row[kind.moment].as_str().expect("a moment"));
        assert!(age.abs() < TimeDelta::minutes(1), "{}: {age}", kind.path);
        assert_eq!(world.api().get(&location).await, (StatusCode::OK, row), "{location}");
    }
    assert_eq!(world.server.rows().await, [2; 4]);
}

#[tokio::test]
async fn what_the_client_says_about_a_row_is_what_is_kept() {
    let world = World::new().await;
    for kind in world.kinds() {
        let (own, then) = (id(), "2021-03-04T05:06:07.123456Z");
        let mut row = kind.with("id", own.as_str());
        row[kind.moment] = then.into();
        let (status, created) = world.api().post(kind.path, row.clone()).await;
        assert_eq!(status, StatusCode::CREATED, "{created}");
        assert_eq!(created, row, "{}", kind.path);
    }
}

#[tokio::test]
async fn ids_that_the_ledger_gives_ascend() {
    let server = Server::start().await;
    let mut last = String::new();
    for _ in 0..20 {
        let id = server.api.user().await;
        assert!(id > last, "{id} after {last}");
        last = id;
    }
}

#[tokio::test]
async fn a_repeated_request_answers_with_the_stored_row() {
    let world = World::new().await;
    for kind in world.kinds() {
        let mut row = kind.with("id", id());
        // Said finer than the ledger keeps it, and by the clocks of another zone.
        row[kind.moment] = "2021-03-04T05:06:07.1234567Z".into();
        let (status, created) = world.api().post(kind.path, row.clone()).await;
        assert_eq!(status, StatusCode::CREATED, "{created}");
        let before = world.server.rows().await;
        let retries = [row.clone(), kind.with("id", row["id"].clone()), {
            let mut row = row.clone();
            row[kind.moment] = "2021-03-04T10:36:07.123456+05:30".into();
            row
        }];
        for retry in retries {
            assert_eq!(world.api().post(kind.path, retry).await, (StatusCode::OK, created.clone()), "{}", kind.path);
        }
        assert_eq!(world.server.rows().await, before, "{}", kind.path);
    }
}

#[tokio::test]
async fn a_leap_second_can_be_retried_too() {
    let server = Server::start().await;
    let user = json!({"id": id(), "created_at": "2016-12-31T23:59:60.5Z"});
    let (status, created) = server.api.post("/users", user.clone()).await;
    assert_eq!((status, &created["created_at"]), (StatusCode::CREATED, &json!("2017-01-01T00:00:00.500Z")));
    assert_eq!(server.api.post("/users", user).await, (StatusCode::OK, created));
}

#[tokio::test]
async fn another_row_under_the_same_id_is_a_conflict() {
    let world = World::new().await;
    let other_base_item = world.api().create("/base-items", json!({"description": "table"})).await;
    let other_item = world.api().item(&world.base_item).await;
    let other_user = world.api().user().await;
    let changes = [
        vec![("description", json!("Lamp")), ("created_at", json!("2021-03-04T05:06:07.000001Z"))],
        vec![("created_at", json!("2021-03-04T05:06:07.000001Z"))],
        vec![("base_item_id", json!(other_base_item)), ("created_at", json!("2021-03-04T05:06:07.000001Z"))],
        vec![
            ("item_id", json!(other_item)),
            ("owner_id", json!(other_user)),
            ("timestamp", json!("2021-03-04T05:06:07.000001Z")),
        ],
    ];
    for (kind, changes) in world.kinds().iter().zip(changes) {
        let mut row = kind.with("id", id());
        row[kind.moment] = "2021-03-04T05:06:07Z".into();
        let (status, stored) = world.api().post(kind.path, row.clone()).await;
        assert_eq!(status, StatusCode::CREATED, "{stored}");
        let before = world.server.rows().await;
        for (field, value) in changes {
            let mut other = row.clone();
            other[field] = value;
            let (status, problem) = world.api().post(kind.path, other).await;
            assert_eq!(status, StatusCode::CONFLICT, "{} {field}: {problem}", kind.path);
            assert_eq!(problem["type"], "urn:newcycle:problem:conflict");
        }
        assert_eq!(world.server.rows().await, before, "{}", kind.path);
        let path = format!("{}/{}", kind.path, row["id"].as_str().expect("an id"));
        assert_eq!(world.api().get(&path).await.1, stored, "the stored row is as it was");
    }
}

#[tokio::test]
async fn of_identical_requests_at_the_same_time_one_creates_the_row_and_all_get_it() {
    let world = World::new().await;
    for kind in world.kinds() {
        let before: i64 = world.server.rows().await.iter().sum();
        let row = kind.with("id", id());
        let answers = join_all((0..24).map(|_| world.api().post(kind.path, row.clone()))).await;
        let created = answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count();
        let unchanged = answers.iter().filter(|(status, _)| *status == StatusCode::OK).count();
        assert_eq!((created, unchanged), (1, 23), "{answers:?}");
        assert!(answers.iter().all(|(_, row)| *row == answers[0].1), "{answers:?}");
        assert_eq!(world.server.rows().await.iter().sum::<i64>(), before + 1, "{}", kind.path);
    }
}

#[tokio::test]
async fn of_different_rows_under_one_id_at_the_same_time_exactly_one_is_kept() {
    let server = Server::start().await;
    let id = id();
    let posts = (0..24).map(|n| server.api.post("/base-items", json!({"id": id, "description": format!("lamp {n}")})));
    let answers = join_all(posts).await;
    let (created, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(status, _)| *status == StatusCode::CREATED);
    assert_eq!(created.len(), 1);
    assert!(refused.iter().all(|(status, _)| *status == StatusCode::CONFLICT), "{refused:?}");
    assert_eq!(server.api.get(&format!("/base-items/{id}")).await.1, created[0].1);
    assert_eq!(server.rows().await, [1, 0, 0, 0]);
}

/// What is sent, and what it is refused with.
struct Refusal {
    what: String,
    path: &'static str,
    content_type: Option<&'static str>,
    body: Vec<u8>,
    status: u16,
    field: Option<&'static str>,
}

/// Everything that a row of any kind can be refused for.
fn refusals(kind: &Kind) -> Vec<Refusal> {
    const JSON: Option<&str> = Some("application/json");
    let mut refusals = Vec::new();
    let mut refuse = |what: &str, content_type, body: Vec<u8>, status, field| {
        let what = format!("{} {what}", kind.path);
        refusals.push(Refusal { what, path: kind.path, content_type, body, status, field });
    };
    let valid = kind.valid.to_string().into_bytes();
    refuse("without a media type", None, valid.clone(), 415, None);
    refuse("as text", Some("text/plain"), valid.clone(), 415, None);
    refuse("as a form", Some("application/x-www-form-urlencoded"), valid.clone(), 415, None);
    for (what, body) in [
        ("nothing", &b""[..]),
        ("blanks", b" \n "),
        ("half a row", b"{\"id\": "),
        ("no JSON", b"lamp"),
        ("two rows", b"{} {}"),
        ("invalid UTF-8", b"{\"description\": \"\xff\"}"),
        ("half a character", b"{\"description\": \"\\ud800\"}"),
    ] {
        refuse(what, JSON, body.to_vec(), 400, None);
    }
    for body in ["null", "\"lamp\"", "1", "true"] {
        refuse(body, JSON, body.into(), 422, None);
    }
    let too_large = kind.with("colour", "x".repeat(1024 * 1024));
    refuse("a row of more than a mebibyte", JSON, too_large.to_string().into_bytes(), 413, None);
    refuse("five mebibytes of blanks", JSON, vec![b' '; 5 * 1024 * 1024], 413, None);

    let mut invalid =
        |what: &str, body: Value, field| refuse(what, JSON, body.to_string().into_bytes(), 422, Some(field));
    invalid("with an unknown field", kind.with("colour", "red"), "colour");
    invalid("with text as id", kind.with("id", "lamp"), "id");
    invalid("with a number as id", kind.with("id", 1), "id");
    invalid("with a list as id", kind.with("id", json!([])), "id");
    let soon = text(Utc::now() + TimeDelta::minutes(6));
    for value in
        [json!(soon), json!("9999-12-31T23:59:59Z"), json!("0000-12-31T23:59:59Z"), json!("yesterday"), json!(0)]
    {
        invalid(&format!("at {value}"), kind.with(kind.moment, value), kind.moment);
    }
    let required: &[&'static str] = match kind.path {
        "/base-items" => &["description"],
        "/items" => &["base_item_id"],
        "/transfers" => &["item_id", "owner_id"],
        _ => &[],
    };
    for field in required {
        invalid(&format!("without {field}"), kind.without(field), field);
        for value in [Value::Null, json!(1), json!({}), json!([])] {
            invalid(&format!("with {value} as {field}"), kind.with(field, value), field);
        }
    }
    for parent in required.iter().filter(|field| field.ends_with("_id")) {
        invalid(&format!("with an unknown {parent}"), kind.with(parent, id()), parent);
        invalid(&format!("with text as {parent}"), kind.with(parent, "lamp"), parent);
    }
    if kind.path == "/base-items" {
        invalid("without a word", kind.with("description", ""), "description");
        invalid("with too many words", kind.with("description", "ä".repeat(10_001)), "description");
        invalid("with a NUL character", kind.with("description", "la\0mp"), "description");
        invalid("with the nil id", kind.with("id", Uuid::nil().to_string()), "id");
    }
    let twice = format!(r#"{{"id": "{0}", "id": "{0}"}}"#, id());
    refuse("with a field twice", JSON, twice.into_bytes(), 422, Some("id"));
    refusals
}

#[tokio::test]
async fn what_is_refused_says_why_and_leaves_nothing_behind() {
    let world = World::new().await;
    let before = world.server.rows().await;
    for refusal in world.kinds().iter().flat_map(refusals) {
        let Refusal { what, path, content_type, body, status, field } = refusal;
        let mut request = world.api().request(Method::POST, path).body(body);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_problem(&what, response, status, field).await;
        assert_eq!(world.server.rows().await, before, "{what}");
    }
}

/// That this is a problem (RFC 9457) with that status, about that field.
async fn assert_problem(what: &str, response: reqwest::Response, status: u16, field: Option<&str>) {
    let answered = response.status().as_u16();
    let headers = response.headers().clone();
    let body = response.text().await.expect("a body");
    assert_eq!(answered, status, "{what}: {body}");
    assert_eq!(headers["content-type"], "application/problem+json", "{what}");
    assert!(headers.contains_key("x-request-id"), "{what}");
    let problem: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(problem["status"], status, "{what}: {problem}");
    assert!(
        problem["type"].as_str().is_some_and(|kind| kind.starts_with("urn:newcycle:problem:")),
        "{what}: {problem}"
    );
    for text in ["title", "detail"] {
        assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{what}: {problem}");
    }
    assert_eq!(problem["errors"][0]["field"].as_str(), field, "{what}: {problem}");
}

#[tokio::test]
async fn the_longest_description_and_the_latest_moment_are_accepted() {
    let server = Server::start().await;
    let soon = text(Utc::now() + TimeDelta::minutes(4));
    let row = json!({"description": "ä".repeat(10_000), "created_at": soon});
    let (status, created) = server.api.post("/base-items", row.clone()).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(created["description"], row["description"]);
    let (status, _) = server.api.post("/users", json!({"created_at": "0001-01-01T00:00:00Z"})).await;
    assert_eq!(status, StatusCode::CREATED);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_by_the_name_of_what_is_wrong() {
    let world = World::new().await;
    let before = world.server.rows().await;
    let item = &world.item;
    let unknown = id();
    let wild_token = "gAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"; // a moment 292,000 years before the epoch
    let mut requests = vec![
        (Method::GET, "/nothing/here".to_owned(), 404, None),
        (Method::POST, "/nothing/here".to_owned(), 404, None),
        (Method::GET, format!("/items/{item}/nothing"), 404, None),
        (Method::GET, format!("/items/{unknown}/owner"), 404, None),
        (Method::GET, format!("/items/{unknown}/transfers"), 404, None),
        (Method::GET, format!("/users/{unknown}/items"), 404, None),
        (Method::GET, format!("/items/{item}/owner?at=yesterday"), 422, Some("at")),
        (Method::GET, format!("/items/{item}/owner?at="), 422, Some("at")),
        (Method::GET, format!("/items/{item}/owner?at=-262143-01-01T00:00:00Z"), 422, Some("at")),
        (Method::GET, format!("/items/{item}/owner?when=now"), 422, Some("when")),
        (Method::GET, format!("/users/{}/items?at=-262143-01-01T00:00:00Z", world.user), 422, Some("at")),
        (Method::GET, format!("/items/{item}/owner?at=%2B262142-01-01T00:00:00Z"), 422, Some("at")),
        (Method::GET, "/items/lamp/owner".to_owned(), 422, Some("id")),
        (Method::GET, "/users/lamp/items".to_owned(), 422, Some("id")),
        (Method::POST, format!("/items/{item}/owner"), 405, None),
        (Method::POST, format!("/items/{item}/ownership"), 405, None),
        (Method::DELETE, format!("/items/{item}/ownership"), 405, None),
        (Method::POST, "/statistics/transfers/day".to_owned(), 405, None),
        (Method::POST, "/livez".to_owned(), 405, None),
    ];
    for path in ["/base-items", "/users", "/items", "/transfers"] {
        for method in [Method::PUT, Method::PATCH, Method::DELETE] {
            requests.push((method.clone(), path.to_owned(), 405, None));
            requests.push((method, format!("{path}/{unknown}"), 405, None));
        }
        requests.extend([
            (Method::GET, format!("{path}/{unknown}"), 404, None),
            (Method::GET, format!("{path}/lamp"), 422, Some("id")),
            (Method::GET, format!("{path}?page_size=0"), 422, Some("page_size")),
            (Method::GET, format!("{path}?page_size=1001"), 422, Some("page_size")),
            (Method::GET, format!("{path}?page_size=many"), 422, Some("page_size")),
            (Method::GET, format!("{path}?page_token=lamp"), 422, Some("page_token")),
            (Method::GET, format!("{path}?page_token="), 422, Some("page_token")),
            (Method::GET, format!("{path}?page_token={wild_token}"), 422, Some("page_token")),
            (Method::GET, format!("{path}?colour=red"), 422, Some("colour")),
            (Method::POST, format!("{path}?skip_rejected=maybe"), 422, Some("skip_rejected")),
            (Method::POST, format!("{path}?colour=red"), 422, Some("colour")),
        ]);
    }
    for (method, path, status, field) in requests {
        let what = format!("{method} {path}");
        let response = world.api().request(method, &path).json(&json!({})).send().await.expect("an answer");
        assert_eq!(response.headers().contains_key("allow"), status == 405, "{what}");
        assert_problem(&what, response, status, field).await;
    }
    assert_eq!(world.server.rows().await, before);
}

#[tokio::test]
async fn handing_an_item_over_is_a_transfer_at_this_moment() {
    let world = World::new().await;
    let api = world.api();
    let item = api.item(&world.base_item).await;
    let owner = format!("/items/{item}/owner");
    assert_eq!(api.get(&owner).await.0, StatusCode::NOT_FOUND, "nobody owned it yet");
    assert_eq!(api.get(&format!("/items/{item}/transfers")).await.1, json!({"data": [], "next_page_token": null}));

    let users = [api.user().await, api.user().await, api.user().await];
    for user in users.iter().cycle().take(12) {
        let (status, body) = api.put(&format!("/items/{item}/ownership"), json!({"to": user})).await;
        assert_eq!((status, body), (StatusCode::NO_CONTENT, Value::Null));
        let (_, now) = api.get(&owner).await;
        assert_eq!(now["owner_id"], **user, "whoever got it last owns it");
        let (_, transfer) = api.get(&format!("/transfers/{}", now["transfer_id"].as_str().expect("an id"))).await;
        assert_eq!(transfer["item_id"], *item);
        assert_eq!(transfer["timestamp"], now["since"]);
        assert!((Utc::now() - moment(now["since"].as_str().expect("a moment"))).abs() < TimeDelta::minutes(1));
    }
    let (_, history) = api.get(&format!("/items/{item}/transfers")).await;
    assert_eq!(history["data"].as_array().expect("rows").len(), 12);

    let before = world.server.rows().await;
    let path = format!("/items/{item}/ownership");
    let refusals = [
        (path.clone(), json!({"to": id()}).to_string(), 422, Some("to")),
        (path.clone(), json!({"to": "somebody"}).to_string(), 422, Some("to")),
        (path.clone(), json!({}).to_string(), 422, Some("to")),
        (
            path.clone(),
            json!({"to": users[0], "timestamp": "2021-01-01T00:00:00Z"}).to_string(),
            422,
            Some("timestamp"),
        ),
        (path.clone(), "{".to_owned(), 400, None),
        (path.clone(), " ".repeat(2 * 1024 * 1024), 413, None),
        (format!("/items/{}/ownership", id()), json!({"to": users[0]}).to_string(), 404, None),
        ("/items/lamp/ownership".to_owned(), json!({"to": users[0]}).to_string(), 422, Some("id")),
    ];
    for (path, body, status, field) in refusals {
        let what: String = format!("PUT {path} {body}").chars().take(100).collect();
        let request = api.request(Method::PUT, &path).header("content-type", "application/json").body(body);
        assert_problem(&what, request.send().await.expect("an answer"), status, field).await;
    }
    for media_type in ["text/plain", "application/x-ndjson"] {
        let request = api.request(Method::PUT, &path).header("content-type", media_type);
        let response = request.body(json!({"to": users[0]}).to_string()).send().await.expect("an answer");
        assert_problem(media_type, response, 415, None).await;
    }
    assert_eq!(world.server.rows().await, before);
}

#[tokio::test]
async fn a_transfer_of_the_past_changes_the_past_only() {
    let world = World::new().await;
    let api = world.api();
    let (early, late) = (api.user().await, api.user().await);
    let transfer =
        |owner: &str, timestamp: &str| json!({"item_id": world.item, "owner_id": owner, "timestamp": timestamp});
    let late_transfer = api.create("/transfers", transfer(&late, "2021-06-01T00:00:00Z")).await;
    let (_, now) = api.get(&format!("/items/{}/owner", world.item)).await;
    assert_eq!(now["owner_id"], *world.user, "a later transfer was there before");
    let early_transfer = api.create("/transfers", transfer(&early, "2021-03-01T00:00:00Z")).await;

    let owner_at = async |at: &str| api.get(&format!("/items/{}/owner?at={at}", world.item)).await;
    assert_eq!(owner_at("2021-02-28T23:59:59.999999Z").await.0, StatusCode::NOT_FOUND);
    for (at, owner, since, transfer) in [
        ("2021-03-01T00:00:00Z", &early, "2021-03-01T00:00:00Z", &early_transfer),
        ("2021-05-31T23:59:59.999999Z", &early, "2021-03-01T00:00:00Z", &early_transfer),
        ("2021-06-01T00:00:00Z", &late, "2021-06-01T00:00:00Z", &late_transfer),
        ("2021-06-01T02:00:00%2B02:00", &late, "2021-06-01T00:00:00Z", &late_transfer),
        ("2022-01-01T00:00:00Z", &late, "2021-06-01T00:00:00Z", &late_transfer),
    ] {
        let expected = json!({"owner_id": owner, "since": since, "transfer_id": transfer});
        assert_eq!(owner_at(at).await, (StatusCode::OK, expected), "{at}");
    }
}

/// Small enough to try every moment, with many ties.
#[tokio::test]
async fn owners_holdings_and_history_agree_with_the_list_of_transfers_at_every_moment() {
    let world = World::new().await;
    let api = world.api();
    let mut items = Vec::new();
    let mut users = Vec::new();
    for _ in 0..4 {
        items.push(api.item(&world.base_item).await);
        users.push(api.user().await);
    }
    let start = moment("2021-01-01T00:00:00Z");
    let at = |micros: u64| start + TimeDelta::microseconds(micros.cast_signed());
    let mut transfers = Vec::new();
    for _ in 0..60 {
        let chance = Uuid::new_v4().as_u128();
        let pick = |n: u32, of: u128| usize::try_from((chance >> n) % of).expect("small");
        transfers.push(json!({
            "id": id(),
            "item_id": items[pick(0, 4)],
            "owner_id": users[pick(10, 4)],
            "timestamp": text(at(pick(20, 8) as u64)),
        }));
    }
    let (status, answer) = api.post("/transfers", json!(transfers)).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"inserted": 60, "unchanged": 0})));
    let string = |transfer: &Value, field: &str| transfer[field].as_str().expect("text").to_owned();
    transfers.sort_by_key(|transfer| (string(transfer, "timestamp"), string(transfer, "id")));

    for micros in 0..9 {
        let now = text(at(micros));
        let mut owners = BTreeMap::new();
        for transfer in transfers.iter().filter(|transfer| string(transfer, "timestamp") <= now) {
            owners.insert(string(transfer, "item_id"), transfer.clone());
        }
        for item in &items {
            let (status, owner) = api.get(&format!("/items/{item}/owner?at={now}")).await;
            let expected = owners.get(item);
            assert_eq!(status.is_success(), expected.is_some(), "{item} at {now}: {owner}");
            if let Some(transfer) = expected {
                assert_eq!(owner["transfer_id"], transfer["id"], "{item} at {now}");
                assert_eq!(owner["owner_id"], transfer["owner_id"], "{item} at {now}");
            }
        }
        for user in &users {
            let (_, page) = api.get(&format!("/users/{user}/items?at={now}")).await;
            let held: HashSet<_> =
                page["data"].as_array().expect("rows").iter().map(|item| string(item, "id")).collect();
            let expected: HashSet<_> = owners
                .iter()
                .filter(|(_, transfer)| string(transfer, "owner_id") == *user)
                .map(|(item, _)| item.clone())
                .collect();
            assert_eq!(held, expected, "{user} at {now}");
        }
    }
    for item in &items {
        let (_, page) = api.get(&format!("/items/{item}/transfers")).await;
        let history: Vec<_> =
            page["data"].as_array().expect("rows").iter().map(|transfer| string(transfer, "id")).collect();
        let expected: Vec<_> = transfers
            .iter()
            .rev()
            .filter(|transfer| string(transfer, "item_id") == *item)
            .map(|transfer| string(transfer, "id"))
            .collect();
        assert_eq!(history, expected, "newest first, and of two in the same microsecond the greater id");
    }
}

/// Reads a list to its end; `between` runs after every page.
async fn pages(api: &Api, path: &str, size: usize, between: impl AsyncFn()) -> Vec<Value> {
    let separator = if path.contains('?') { '&' } else { '?' };
    let first = format!("{path}{separator}page_size={size}");
    let mut next = first.clone();
    let mut rows = Vec::new();
    loop {
        let (status, page) = api.get(&next).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let data = page["data"].as_array().expect("rows");
        assert!(data.len() <= size, "{next}");
        rows.extend(data.iter().cloned());
        let Some(token) = page["next_page_token"].as_str() else { return rows };
        assert_eq!(data.len(), size, "only the last page is shorter");
        next = format!("{first}&page_token={token}");
        between().await;
    }
}

fn ids(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn a_list_read_while_rows_are_inserted_shows_every_earlier_row_once() {
    let world = World::new().await;
    for kind in world.kinds() {
        // Few moments for many rows: ties at every edge of a page.
        let rows: Vec<_> = (0..25)
            .map(|n| {
                let mut row = kind.with("id", id());
                row[kind.moment] = format!("2021-01-01T00:00:00.{:06}Z", n % 4).into();
                row
            })
            .collect();
        let (status, answer) = world.api().post(kind.path, json!(rows)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let expected: HashSet<_> = ids(&rows).into_iter().collect();
        for size in [2, 7, 1000] {
            let insert = async || {
                let moments = ["2021-01-01T00:00:00.000002Z", "2020-01-01T00:00:00Z", "2022-01-01T00:00:00Z"];
                let rows = moments.map(|moment| kind.with(kind.moment, moment));
                assert_eq!(world.api().post(kind.path, json!(rows)).await.0, StatusCode::OK);
            };
            let listed = pages(world.api(), kind.path, size, insert).await;
            let order: Vec<_> =
                listed.iter().map(|row| (moment(row[kind.moment].as_str().expect("text")), &row["id"])).collect();
            assert!(
                order.is_sorted_by(|a, b| (a.0, a.1.as_str()) > (b.0, b.1.as_str())),
                "newest first, nothing twice"
            );
            let listed: HashSet<_> = ids(&listed).into_iter().collect();
            assert!(expected.is_subset(&listed), "{} in pages of {size}", kind.path);
            assert!(size > 2 || listed.len() > 26, "rows that are inserted where the reader has yet to come are read");
        }
    }
}

#[tokio::test]
async fn a_full_last_page_says_that_it_is_the_last() {
    let server = Server::start().await;
    for _ in 0..6 {
        server.api.user().await;
    }
    assert_eq!(pages(&server.api, "/users", 3, async || ()).await.len(), 6);
    let (_, page) = server.api.get("/users?page_size=6").await;
    assert_eq!(page["next_page_token"], Value::Null);
    let (_, page) = server.api.get("/users").await;
    assert_eq!(page["data"].as_array().expect("rows").len(), 6);
}

#[tokio::test]
async fn history_and_holdings_come_in_pages_too() {
    let world = World::new().await;
    let api = world.api();
    let user = api.user().await;
    let items: Vec<_> = (0..10).map(|_| json!({"id": id(), "base_item_id": world.base_item})).collect();
    api.post("/items", json!(items)).await;
    let item = |n: usize| items[n % 10]["id"].clone();
    let transfers: Vec<_> = (0..40)
        .map(|n| json!({"item_id": item(n), "owner_id": user, "timestamp": format!("2021-01-01T00:00:{:02}Z", n / 20)}))
        .collect();
    let (status, answer) = api.post("/transfers", json!(transfers)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");

    let path = format!("/users/{user}/items");
    let held = ids(&pages(api, &path, 3, async || ()).await);
    assert_eq!(held.len(), 10, "each item once, however often the user received it");
    assert_eq!(held.iter().collect::<HashSet<_>>(), ids(&items).iter().collect());
    assert_eq!(held, ids(&pages(api, &path, 100, async || ()).await));
    assert_eq!(held, ids(&pages(api, &format!("{path}?at=2021-01-01T00:00:00Z"), 4, async || ()).await));
    assert_eq!(pages(api, &format!("{path}?at=2020-12-31T00:00:00Z"), 4, async || ()).await, [] as [Value; 0]);

    let path = format!("/items/{}/transfers", item(3).as_str().expect("an id"));
    let insert = async || {
        api.create("/transfers", json!({"item_id": item(3), "owner_id": world.user})).await;
    };
    assert_eq!(pages(api, &path, 1, insert).await.len(), 4, "what comes meanwhile is newer, so on no later page");
}
