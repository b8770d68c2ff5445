//! What becomes of records: secrets on the way to them, transforms, the ledger, dead letters, and what is new.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use sqlx::Executor;

use crate::api::{Api, View};
use crate::faults::Process;
use crate::harness::{Server, data_directory, eventually, new_database};
use crate::source::{Fault, Source, numbered};
use crate::streams::{assert_equal, create, cursors, fetch, get, records, server, settings};

#[tokio::test]
async fn secrets_are_sent_where_they_belong_and_shown_nowhere() {
    let server = server().await;
    for (auth, header, expected) in [
        (json!({"bearer": {"token": "hush"}}), "authorization", "Bearer hush"),
        (json!({"basic": {"username": "me", "password": "hush"}}), "authorization", "Basic bWU6aHVzaA=="),
        (json!({"key": {"header": "X-Shop-Key", "value": "hush"}}), "x-shop-key", "hush"),
    ] {
        let source = Source::with(15).await;
        let kind = auth.as_object().expect("it").keys().next().expect("a kind").clone();
        let mut new = cursors(&source);
        new["name"] = json!(kind);
        new["source"]["http"]["auth"] = auth;
        let id = create(&server.api, new).await;
        assert_eq!(fetch(&server.api, &id).await["state"], "complete");
        let asked = source.asked();
        assert!(asked.len() == 2 && asked.iter().all(|asked| asked.headers[header] == expected), "{asked:?}");
        let shown = get(&server.api, &id).await;
        assert_eq!((&shown["auth"], &shown["source"]["http"]["auth"]), (&json!(kind), &Value::Null));
    }
    let source = Source::with(15).await;
    let mut new = cursors(&source);
    new["source"]["http"]["auth"] = json!({"key": {"parameter": "api key", "value": "hush&hush"}});
    let id = create(&server.api, new).await;
    fetch(&server.api, &id).await;
    assert!(source.asked().iter().all(|asked| asked.query["api key"] == "hush&hush"));
    // What a source says may be shown, but for the secret in it.
    source.then([Fault::Body("application/json", "nothing".to_owned()), Fault::Status(400, vec![])]);
    source.then([Fault::Status(401, vec![])]);
    fetch(&server.api, &id).await;
    let (_, all) = server.api.get("/streams").await;
    let everything: Vec<String> =
        sqlx::query_scalar("select s::text from jobs.streams s union all select b::text from jobs.batches b")
            .fetch_all(&server.database.pool)
            .await
            .expect("rows");
    assert!(!format!("{all} {everything:?}").contains("hush"), "{all} {everything:?}");

    // A secret is for the place that it was given for.
    let path = format!("/streams/{id}");
    let patch = async |change: Value| Api::send(server.api.request(Method::PATCH, &path).json(&change)).await.1;
    let same = patch(json!({"source": {"http": {"url": format!("{}/all?limit=5", source.url)}}})).await;
    assert_eq!(same["auth"], "key", "{same}");
    let elsewhere = Source::with(1).await;
    let moved = patch(json!({"source": {"http": {"url": format!("{}/all", elsewhere.url)}}})).await;
    assert_eq!(moved["auth"], Value::Null, "{moved}");
    fetch(&server.api, &id).await;
    assert!(elsewhere.asked().iter().all(|asked| asked.query.is_empty()), "{:?}", elsewhere.asked());
}

#[tokio::test]
async fn whatever_is_logged_no_secret_is() {
    let name = new_database().await;
    let files = data_directory(&name);
    std::fs::create_dir_all(&files).expect("a directory");
    let log = files.join("log");
    let redirect = format!("exec 2> '{}';", log.display());
    let settings = [("NEWCYCLE_STREAM_NETWORKS", "127.0.0.1"), ("LOG_LEVEL", "trace")];
    let process = Process::start(&name, &redirect, &settings).await;
    let source = Source::with(5).await;
    let token_url = format!("{}/token", source.url);
    for (number, auth) in [
        json!({"bearer": {"token": "hush"}}),
        json!({"basic": {"username": "me", "password": "hush"}}),
        json!({"key": {"header": "X-Shop-Key", "value": "hush"}}),
        json!({"key": {"parameter": "key", "value": "hush"}}),
        json!({"oauth2": {"token_url": token_url, "client_id": "me", "client_secret": "hush"}}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut new = cursors(&source);
        new["name"] = json!(number.to_string());
        new["source"]["http"]["auth"] = auth;
        // One that goes well, and those that do not.
        let preview = json!({"source": new["source"]});
        process.api.post("/streams/preview", preview).await;
        let id = create(&process.api, new).await;
        fetch(&process.api, &id).await;
        source.then([Fault::BreaksOff, Fault::Status(500, vec![]), Fault::Status(400, vec![])]);
        fetch(&process.api, &id).await;
        source.then([Fault::Status(401, vec![]), Fault::Status(401, vec![]), Fault::Status(401, vec![])]);
        fetch(&process.api, &id).await;
        source.then_nothing();
    }
    drop(process);
    let log = std::fs::read_to_string(&log).expect("a log");
    assert!(log.contains("a stream has to be changed"), "it says much else");
    for secret in ["hush", "bWU6aHVzaA"] {
        let told: Vec<_> = log.lines().filter(|line| line.contains(secret)).collect();
        assert!(told.is_empty(), "{told:?}");
    }
}

#[tokio::test]
async fn tokens_are_fetched_with_client_credentials_and_again_when_they_are_not_taken_any_more() {
    let server = server().await;
    let source = Source::with(35).await;
    source.want_tokens(&["none yet"]);
    // For the token, and three pages; then the token is revoked.
    source.then([Fault::None, Fault::None, Fault::None, Fault::Status(401, vec![])]);
    let mut new = cursors(&source);
    new["source"]["http"]["auth"] = json!({"oauth2": {
        "token_url": format!("{}/token", source.url), "client_id": "me", "client_secret": "hush/hush", "scope": "read",
    }});
    let id = create(&server.api, new).await;
    let batch = fetch(&server.api, &id).await;
    assert_eq!(batch["state"], "complete", "{batch}");
    assert_equal(&server.api, &id, &source).await;
    let asked = source.asked();
    let tokens: Vec<_> = asked.iter().filter(|asked| asked.path == "/token").collect();
    assert_eq!(tokens.len(), 2);
    assert_eq!(tokens[0].headers["authorization"], "Basic bWU6aHVzaCUyRmh1c2g=");
    assert_eq!(tokens[0].body, "grant_type=client_credentials&scope=read");
    // The next run takes the same.
    assert_eq!(fetch(&server.api, &id).await["state"], "complete");
    let tokens = source.asked().iter().filter(|asked| asked.path == "/token").count();
    assert_eq!(tokens, 2);
    // Credentials that are not good are for somebody to change.
    source.then([Fault::Status(401, vec![]), Fault::Status(401, vec![])]);
    let failed = fetch(&server.api, &id).await;
    assert!(failed["reason"].as_str().expect("why").starts_with("No token can be had."), "{failed}");
}

#[tokio::test]
async fn what_is_new_is_fetched_and_what_is_old_is_kept() {
    let mut settings = settings();
    settings.streams.stream_batches = 1;
    let server = Server::with_settings(settings).await;
    let source = Source::with(25).await;
    let mut new = cursors(&source);
    new["source"]["http"]["incremental"] = json!({"field": "updated_at", "parameter": "since"});
    let id = create(&server.api, new).await;
    assert_eq!(fetch(&server.api, &id).await["records"], 25);
    source.change(|records| {
        records[3] = json!({"id": 3, "name": "changed", "updated_at": 100});
        records.push(json!({"id": 200, "name": "new", "updated_at": 101}));
    });
    assert_eq!(fetch(&server.api, &id).await["records"], 3, "the greatest, which may have changed, and two more");
    assert!(source.asked().iter().skip(3).all(|asked| asked.query["since"] == "24"));
    assert_eq!(get(&server.api, &id).await["mark"], 101);
    let names = async || -> Vec<(i64, String)> {
        let mut analyst = server.database.pool.acquire().await.expect("a connection");
        analyst.execute("set role newcycle_reader").await.expect("the role");
        let names =
            sqlx::query_as("select (record ->> 'id')::bigint, record ->> 'name' from stream_records order by 1")
                .fetch_all(&mut *analyst)
                .await
                .expect("records");
        assert!(analyst.execute("select secrets from jobs.streams").await.is_err(), "secrets are not for analysts");
        analyst.execute("reset role").await.expect("the role");
        names
    };
    let now = || -> Vec<_> {
        let name = |record: &Value| record["name"].as_str().expect("text").to_owned();
        source.records().iter().map(|record| (record["id"].as_i64().expect("a number"), name(record))).collect()
    };
    assert_eq!(names().await, now(), "analysts see each record as it was last");
    // The older batch goes, but for what is not in a newer one.
    eventually(|| async {
        let (status, gone) = server.api.get(&format!("/streams/{id}/data?batch=1")).await;
        if status == StatusCode::GONE { Ok(()) } else { Err(gone.to_string()) }
    })
    .await;
    source.change(|records| records[5] = json!({"id": 5, "name": "changed, too", "updated_at": 102}));
    fetch(&server.api, &id).await;
    assert_eq!(names().await, now());
    let versions: i64 = sqlx::query_scalar("select count(*) from jobs.records where key = '5'")
        .fetch_one(&server.database.pool)
        .await
        .expect("a number");
    assert_eq!(versions, 1, "what nobody reads any more is not kept");
}

/// Assets of a shop.
fn assets() -> Vec<Value> {
    (0..25)
        .map(|number| {
            json!({
                "id": number, "properties": {"model": number % 3, "model_name": format!("Model {}", number % 3)},
                "owner": if number % 5 == 0 { Value::Null } else { json!(format!("user-{}@example.com", number % 4)) },
                "since": format!("2026-01-{:02}", number + 1),
            })
        })
        .collect()
}

fn into_ledger(source: &Source) -> Value {
    let mut new = cursors(source);
    new["transform"] = json!([
        {"rename": {"from": "/properties/model_name", "to": "model_name"}},
        {"cast": {"field": "since", "to": "timestamp"}},
    ]);
    new["destination"] = json!({"ledger": {
        "base_item": {"key": "/properties/model", "description": "model_name"},
        "item": {"key": "id"}, "user": {"key": "owner"}, "transfer": {"timestamp": "since"},
    }});
    new
}

#[tokio::test]
async fn records_are_in_the_ledger_once_however_often_they_are_fetched() {
    let server = server().await;
    let source = Source::start(assets()).await;
    let id = create(&server.api, into_ledger(&source)).await;
    let mut live = server.api.stream("/statistics/stream?metrics=transfers&resolution=year&window=100", None).await;
    let mut view = View::default();
    for _ in 0..3 {
        let batch = fetch(&server.api, &id).await;
        assert_eq!((&batch["state"], &batch["rejected"]), (&json!("complete"), &json!(0)), "{batch}");
        assert_eq!(server.rows().await, [3, 4, 25, 20]);
    }
    while view.total("transfers") != 20 {
        view.take(&live.next().await.expect("the stream goes on"));
    }
    assert_eq!(server.differences().await, 0);
    // Somebody hands something over.
    source.change(|records| {
        records[1]["owner"] = json!("somebody else");
        records[1]["since"] = json!("2026-02-01");
    });
    fetch(&server.api, &id).await;
    assert_eq!(server.rows().await, [3, 5, 25, 21]);
    let (_, items) = server.api.get("/items?page_size=1000").await;
    assert!(
        items["data"]
            .as_array()
            .expect("items")
            .iter()
            .all(|item| item["id"].as_str().expect("id").as_bytes()[14] == b'5')
    );
}

#[tokio::test]
async fn a_bad_record_spoils_no_other_and_is_tried_again_when_it_is_mended() {
    let server = server().await;
    let source = Source::start(assets()).await;
    source.change(|records| {
        records[7]["since"] = json!("last spring");
        records[8].as_object_mut().expect("an object").remove("id");
        records[9]["properties"]["model_name"] = json!("x".repeat(20_000));
        records[9]["properties"]["model"] = json!("too long");
    });
    let id = create(&server.api, into_ledger(&source)).await;
    for times in [1, 2] {
        let batch = fetch(&server.api, &id).await;
        assert_eq!(
            (&batch["state"], &batch["records"], &batch["rejected"]),
            (&json!("complete"), &json!(22), &json!(3))
        );
        let (_, letters) = server.api.get(&format!("/dead-letters?stream_id={id}")).await;
        let letters = letters["data"].as_array().expect("dead letters").clone();
        assert_eq!(letters.len(), 3, "each record once");
        assert!(letters.iter().all(|letter| letter["times"] == times), "{letters:?}");
        let reasons: Vec<_> = letters.iter().map(|letter| letter["reason"].as_str().expect("why")).collect();
        for reason in [
            "/since: \"last spring\" is no timestamp",
            "The record has no key",
            "The ledger does not take it: description",
        ] {
            assert!(reasons.iter().any(|said| said.starts_with(reason)), "{reason}: {reasons:?}");
        }
    }
    assert_eq!(get(&server.api, &id).await["dead_letters"], 3);
    // To try again as things are does not help.
    let (_, letters) = server.api.get("/dead-letters").await;
    let letter =
        letters["data"].as_array().expect("them").iter().find(|letter| letter["key"] == "7").expect("it").clone();
    let retry = format!("/dead-letters/{}/retry", letter["id"].as_str().expect("an id"));
    let (status, retried) = server.api.post(&retry, json!({})).await;
    assert_eq!((status, &retried["state"]), (StatusCode::ACCEPTED, &json!("retrying")), "{retried}");
    eventually(|| async {
        let (_, letters) = server.api.get("/dead-letters").await;
        let letter = letters["data"].as_array().expect("them").iter().find(|letter| letter["key"] == "7").cloned();
        match letter {
            Some(letter) if letter["state"] == "dead" && letter["times"] == 3 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // Somebody knows better.
    let steps = json!([
        {"rename": {"from": "/properties/model_name", "to": "model_name"}},
        {"constant": {"field": "since", "value": "2026-03-20T00:00:00Z"}},
    ]);
    let change = server.api.request(Method::PATCH, &format!("/streams/{id}")).json(&json!({"transform": steps}));
    assert_eq!(Api::send(change).await.0, StatusCode::OK);
    let before = server.api.request(Method::GET, &format!("/streams/{id}/data")).send().await.expect("an answer");
    server.api.post(&retry, json!({})).await;
    eventually(|| async {
        let stored = records(&server.api, &id, "latest").await;
        if stored.len() == 23 { Ok(()) } else { Err(format!("{}", stored.len())) }
    })
    .await;
    let after = server.api.request(Method::GET, &format!("/streams/{id}/data")).send().await.expect("an answer");
    assert_ne!(before.headers()["etag"], after.headers()["etag"], "the batch is another one");
    assert_eq!(server.api.post(&retry, json!({})).await.0, StatusCode::NOT_FOUND, "it is dead no more");
    assert_eq!(server.rows().await[2], 23);
    // The record without a key is mended in the source, and comes by itself.
    source.change(|records| records[8]["id"] = json!(8));
    fetch(&server.api, &id).await;
    assert_eq!(server.rows().await[2], 24);
}

#[tokio::test]
async fn what_postgres_cannot_store_is_a_dead_letter_too() {
    let server = server().await;
    let source = Source::with(6).await;
    source.change(|records| {
        records[1]["name"] = json!("a\0b");
        records[2]["a\0b"] = json!([{}]);
        records[3]["id"] = json!("x".repeat(3_000));
        records[5]["price"] = serde_json::from_str("1e200000").expect("a number");
    });
    let id = create(&server.api, cursors(&source)).await;
    let batch = fetch(&server.api, &id).await;
    assert_eq!(
        (&batch["state"], &batch["records"], &batch["rejected"]),
        (&json!("complete"), &json!(2), &json!(4)),
        "{batch}"
    );
    let (_, letters) = server.api.get("/dead-letters").await;
    assert!(letters.to_string().contains("a\u{2400}b"), "{letters}");
}

#[tokio::test]
async fn numbers_keep_all_their_digits() {
    let server = server().await;
    let source = Source::with(0).await;
    let record =
        r#"{"id": 123456789012345678901234567890, "share": 0.12345678901234567890, "big": 1.5e+30, "of": "\ud800"}"#;
    source.then([Fault::Body("application/json", format!(r#"{{"data": [{record}]}}"#))]);
    let id = create(&server.api, cursors(&source)).await;
    assert_eq!(fetch(&server.api, &id).await["state"], "complete");
    let (_, page) = server.api.get(&format!("/streams/{id}/data")).await;
    let stored = &page["data"][0];
    assert_eq!(stored["key"], "123456789012345678901234567890");
    assert_eq!(stored["record"]["share"].to_string(), "0.12345678901234567890");
    assert_eq!(stored["record"]["of"], "\u{fffd}", "text that is not Unicode spoils no page");
    let as_analysts_see_it: String = sqlx::query_scalar(
        "select concat_ws(' ', record ->> 'id', record ->> 'share', record ->> 'big') from stream_records",
    )
    .fetch_one(&server.database.pool)
    .await
    .expect("a record");
    let expected = "123456789012345678901234567890 0.12345678901234567890 1500000000000000000000000000000";
    assert_eq!(as_analysts_see_it, expected);
}

#[tokio::test]
async fn a_mapping_that_fits_nothing_stops_the_stream() {
    let server = server().await;
    let source = Source::with(35).await;
    let mut new = cursors(&source);
    new["destination"] = json!({"ledger": {"base_item": {"key": "/properties/model"}}});
    let id = create(&server.api, new).await;
    let batch = fetch(&server.api, &id).await;
    assert_eq!(batch["state"], "failed");
    let reason = "No record of the first page fits: change the stream. /properties/model: the record has no text or number there";
    assert_eq!(batch["reason"], reason);
    assert_eq!(get(&server.api, &id).await["state"], "failed");
    assert_eq!(source.asked().len(), 1, "it is not asked for more");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_field() {
    let server = server().await;
    let source = Source::with(0).await;
    let mut cases = Vec::new();
    for (pointer, value, field) in [
        ("/name", json!(""), "name"),
        ("/interval_seconds", json!(0), "interval_seconds"),
        ("/interval_seconds", json!("often"), "interval_seconds"),
        ("/cron", json!("* * *"), "cron"),
        ("/timezone", json!("Mars"), "timezone"),
        ("/source", json!({"ftp": {}}), "source"),
        ("/source/http/url", json!("nowhere"), "source.http.url"),
        ("/source/http/records", json!("/a~"), "source.http.records"),
        ("/source/http/pagination", json!({"pages": {}}), "source.http.pagination"),
        ("/source/http/headers", json!({"Cookie": "a=b"}), "source.http.headers"),
        ("/source/http/pagination", json!({"cursor": {"at": "next"}}), "source.http.pagination.cursor.parameter"),
        ("/source/http/pagination", json!({"offset": {"parameter": ""}}), "source.http.pagination.offset.parameter"),
        ("/source/http/auth", json!({"key": {"value": "x"}}), "source.http.auth.key"),
        ("/source/http/auth", json!({"bearer": {"token": ""}}), "source.http.auth.bearer.token"),
        ("/transform", json!([{"pick": ["a"]}, {"cast": {"field": "a", "to": "colour"}}]), "transform[1].cast.to"),
        ("/transform", json!([{"template": {"field": "a", "template": "{"}}]), "transform[0].template.template"),
        ("/transform", json!([{"filter": {"field": "a"}}]), "transform[0].filter"),
        ("/destination", json!({"ledger": {"item": {"key": "id"}}}), "destination.ledger.base_item"),
        ("/destination", json!({"ledger": {"item": {"kez": "id"}}}), "destination.ledger.item.kez"),
        ("/destination", json!([]), "destination"),
        ("/surprise", json!(1), "surprise"),
    ] {
        let mut new = cursors(&source);
        if pointer == "/cron" {
            new.as_object_mut().expect("an object").remove("interval_seconds");
        }
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        new.pointer_mut(parent).expect("it")[name] = value;
        cases.push((new, field));
    }
    for (new, field) in cases {
        let (status, problem) = server.api.post("/streams", new.clone()).await;
        assert_eq!(
            (status, &problem["errors"][0]["field"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!(field)),
            "{new}: {problem}"
        );
    }
    assert_eq!(server.api.get("/streams").await.1["data"], json!([]), "nothing half done");
    assert_eq!(server.api.get("/streams/1/data").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let nobody = "00000000-0000-0000-0000-000000000001";
    for path in ["start", "stop"] {
        assert_eq!(server.api.put(&format!("/streams/{nobody}/{path}"), json!({})).await.0, StatusCode::NOT_FOUND);
    }
}

/// Deals as HubSpot has them.
fn deals(amount: usize) -> Vec<Value> {
    let moment = chrono::DateTime::from_timestamp(1_767_225_600, 0).expect("a moment");
    numbered(0, amount)
        .into_iter()
        .enumerate()
        .map(|(number, _)| {
            let modified = moment + chrono::TimeDelta::minutes(i64::try_from(number).expect("few"));
            let modified = modified.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
            json!({"id": number.to_string(), "properties": {"dealname": format!("deal {number}"), "hs_lastmodifieddate": modified}})
        })
        .collect()
}

#[tokio::test]
async fn a_crm_of_hubspot_is_fetched_completely_and_what_was_modified() {
    let server = server().await;
    let source = Source::start(deals(250)).await;
    source.want_tokens(&["pat-hush"]);
    let new = |name: &str, incremental: bool, token: &str| {
        json!({"name": name, "source": {"hubspot": {
            "object": "deals", "properties": ["dealname"], "incremental": incremental, "base_url": source.url,
            "auth": {"bearer": {"token": token}},
        }}})
    };
    source.then([Fault::None, Fault::Status(429, vec![])]);
    let id = create(&server.api, new("all", false, "pat-hush")).await;
    let batch = fetch(&server.api, &id).await;
    assert_eq!((&batch["state"], &batch["records"]), (&json!("complete"), &json!(250)), "{batch}");
    assert_equal(&server.api, &id, &source).await;
    let first = &source.asked()[0];
    assert_eq!(
        (first.path.as_str(), &*first.query["limit"], &*first.query["properties"]),
        ("/crm/v3/objects/deals", "100", "dealname")
    );

    let id = create(&server.api, new("modified", true, "pat-hush")).await;
    assert_eq!(fetch(&server.api, &id).await["records"], 250);
    source.change(|records| records[7]["properties"]["hs_lastmodifieddate"] = json!("2026-06-01T00:00:00.000Z"));
    assert_eq!(fetch(&server.api, &id).await["records"], 2, "the last one of before, and what was modified since");
    assert_eq!(get(&server.api, &id).await["mark"], "2026-06-01T00:00:00.000Z");

    let id = create(&server.api, new("refused", false, "pat-wrong")).await;
    let failed = fetch(&server.api, &id).await;
    assert!(failed["reason"].as_str().expect("why").contains("change its auth"), "{failed}");
}

#[tokio::test]
async fn what_a_stream_would_make_of_records_can_be_tried() {
    let server = server().await;
    let source = Source::start(assets()).await;
    source.want_tokens(&["hush"]);
    source.change(|records| records[1]["since"] = json!("last spring"));
    let mut new = into_ledger(&source);
    new["source"]["http"]["auth"] = json!({"bearer": {"token": "hush"}});
    let wanted = json!({"source": new["source"], "transform": new["transform"], "destination": new["destination"]});
    let (status, preview) = server.api.post("/streams/preview", wanted.clone()).await;
    assert_eq!(
        (status, &preview["page_records"], &preview["has_more"]),
        (StatusCode::OK, &json!(10), &json!(true)),
        "{preview}"
    );
    let records = preview["records"].as_array().expect("records");
    assert_eq!(records[2]["record"]["model_name"], "Model 2");
    assert_eq!(records[2]["ledger"]["transfer"]["timestamp"], "2026-01-03T00:00:00Z");
    assert_eq!(records[1]["reason"], "/since: \"last spring\" is no timestamp");
    assert_eq!(records[0]["ledger"]["transfer"], Value::Null, "nobody has it");
    assert_eq!((server.rows().await, source.asked().len()), ([0; 4], 1), "nothing is stored, and one page was fetched");

    let sample = json!({"sample": [{"id": 1, "a": "7"}, {"a": 8}, {"id": 3}], "transform": [
        {"filter": {"field": "a", "exists": true}}, {"cast": {"field": "a", "to": "integer"}},
    ]});
    let (_, preview) = server.api.post("/streams/preview", sample).await;
    let record =
        |number: usize| (preview["records"][number]["record"].clone(), preview["records"][number]["reason"].clone());
    assert_eq!(record(0), (json!({"id": 1, "a": 7}), Value::Null));
    assert_eq!(record(1), (Value::Null, json!("The record has no key: see the source's key")));
    assert_eq!(record(2), (Value::Null, Value::Null), "it is left out");

    // As whoever changes a stream: its secret is used, but for no other place.
    let id = create(&server.api, new).await;
    let mut with_its_secret = wanted.clone();
    with_its_secret["source"]["http"].as_object_mut().expect("an object").remove("auth");
    let (status, problem) = server.api.post("/streams/preview", with_its_secret.clone()).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    with_its_secret["stream_id"] = json!(id);
    let (status, preview) = server.api.post("/streams/preview", with_its_secret.clone()).await;
    assert_eq!((status, &preview["page_records"]), (StatusCode::OK, &json!(10)), "{preview}");
    let elsewhere = Source::with(1).await;
    with_its_secret["source"]["http"]["url"] = json!(format!("{}/all", elsewhere.url));
    server.api.post("/streams/preview", with_its_secret).await;
    assert!(elsewhere.asked().iter().all(|asked| !asked.headers.contains_key("authorization")));
    assert_eq!(elsewhere.asked().len(), 1);

    source.then([Fault::Status(403, vec![])]);
    let (status, problem) = server.api.post("/streams/preview", wanted.clone()).await;
    assert_eq!(
        (status, &problem["errors"][0]["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("source")),
        "{problem}"
    );
    source.then([Fault::Status(500, vec![])]);
    let (status, problem) = server.api.post("/streams/preview", wanted).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    for (wrong, field) in [
        (json!({}), "source"),
        (json!({"sample": vec![json!({}); 21]}), "sample"),
        (json!({"sample": [], "transform": [{"pick": 7}]}), "transform[0].pick"),
        (json!({"sample": [], "destination": {"ledger": {}}}), "destination.ledger"),
    ] {
        let (status, problem) = server.api.post("/streams/preview", wrong.clone()).await;
        assert_eq!(
            (status, &problem["errors"][0]["field"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!(field)),
            "{wrong}"
        );
    }
    let left: i64 =
        sqlx::query_scalar("select (select count(*) from jobs.previews) + (select count(*) from jobs.queue) - 1")
            .fetch_one(&server.database.pool)
            .await
            .expect("a number");
    assert_eq!(left, 0);
}

#[tokio::test]
async fn addresses_that_are_not_public_are_not_fetched_from_unless_operators_allow_it() {
    let server = Server::start().await;
    let source = Source::with(3).await;
    let port = source.url.rsplit_once(':').expect("a port").1;
    for host in ["127.0.0.1", "localhost", "127.1", "0x7f000001", "[::ffff:127.0.0.1]", "169.254.169.254", "[::1]"] {
        let mut new = cursors(&source);
        new["name"] = json!(host);
        new["source"]["http"]["url"] = json!(format!("http://{host}:{port}/cursors"));
        let id = create(&server.api, new).await;
        let batch = fetch(&server.api, &id).await;
        let reason = batch["reason"].as_str().expect("why");
        assert!(batch["state"] == "failed" && reason.contains("which is not public"), "{host}: {batch}");
    }
    assert_eq!(source.asked().len(), 0, "nobody was asked");
}

#[tokio::test]
async fn what_is_newest_is_known_wherever_it_stands() {
    let server = server().await;
    let newest_first = (0..25).map(|number| json!({"id": number, "updated_at": 100 - number})).collect();
    let source = Source::start(newest_first).await;
    let mut new = cursors(&source);
    new["source"]["http"]["incremental"] = json!({"field": "updated_at", "parameter": "since"});
    let id = create(&server.api, new).await;
    fetch(&server.api, &id).await;
    assert_eq!(get(&server.api, &id).await["mark"], 100);
    assert_eq!(fetch(&server.api, &id).await["records"], 1, "what may have changed since");
}
