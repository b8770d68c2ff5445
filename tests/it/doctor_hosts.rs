//! `newcycle doctor` on the way to the database: hosts, networks, proxies.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command as Program, Stdio};

use tempfile::TempDir;
use tokio::process::Command;

use crate::doctor::{doctor, healthy, tell};
use crate::harness::eventually;
use crate::proxy::{Network, Proxy};

#[tokio::test]
async fn hosts_that_cannot_be_used_are_named() {
    let mut primary = healthy().await;
    let standby = primary.standby().await;
    let report = doctor(&standby.url(), &[], &[]).await;
    assert!(report.problem("primary").contains("select pg_promote()"));

    let both =
        primary.url().replace(&primary.address().to_string(), &format!("{},{}", standby.address(), primary.address()));
    let report = doctor(&both, &[], &[]).await;
    assert!(
        report.said("primary", "ok").is_some_and(|said| said.contains(&primary.address().to_string())),
        "{}",
        report.text
    );
    report.is_fine();

    // Nobody listens there any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").to_string();
    let report = doctor(&primary.url().replace(&primary.address().to_string(), &closed), &[], &[]).await;
    let said = report.problem("host");
    assert!(said.contains(&closed) && said.contains("listen_addresses"), "{said}");

    // With a primary, a standby that is away is a warning: the server runs.
    let report = doctor(&both.replace(&standby.address().to_string(), &closed), &[], &[]).await;
    assert_eq!(report.code, Some(0), "{}", report.text);
    assert!(report.said("host", "warning").is_some_and(|said| said.contains(&closed)), "{}", report.text);

    let mut wrong: url::Url = primary.url().parse().expect("a URL");
    wrong.set_password(Some("guess")).expect("a password");
    let said = doctor(wrong.as_str(), &[], &[]).await.problem("host");
    assert!(said.contains("password") && said.contains("PGPASSWORD"), "{said}");
    let said = doctor(&primary.url().replace("/newcycle?", "/elsewhere?"), &[], &[]).await.problem("host");
    assert!(said.contains("createdb"), "{said}");

    tell(&standby, &["select pg_promote()"]).await;
    assert!(doctor(&both, &[], &[]).await.problem("primary").contains("take writes, both"));
}

#[tokio::test]
async fn a_database_that_hangs_has_an_answer_as_well() {
    let postgres = healthy().await;
    let proxy = Proxy::before(postgres.address(), "127.0.0.1").await;
    let url = postgres.url().replace(&postgres.address().to_string(), &proxy.address.to_string());
    doctor(&url, &[], &[]).await.is_fine();
    proxy.set(Network::Cut);
    let said = doctor(&url, &[], &[]).await.problem("host");
    assert!(said.contains(&proxy.address.to_string()), "{said}");
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
async fn a_proxy_that_pools_by_transaction_is_told() {
    if Program::new("pgbouncer").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("there is no pgbouncer here: skipped");
        return;
    }
    let postgres = healthy().await;
    let files = TempDir::new().expect("a directory");
    let url: url::Url = postgres.url().parse().expect("a URL");
    for (mode, is_wrong) in [("session", false), ("transaction", true)] {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").port();
        let settings = files.path().join("pgbouncer.ini");
        let (host, password) = (postgres.address(), url.password().expect("a password"));
        let text = format!(
            "[databases]\nnewcycle = host=127.0.0.1 port={} user=newcycle password={password}\n[pgbouncer]\n\
            listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = {mode}\nunix_socket_dir =\n",
            host.port()
        );
        std::fs::write(&settings, text).expect("a file");
        for path in [files.path(), &settings] {
            std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("it is open");
        }
        let mut command = Command::new("pgbouncer");
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        let _proxy = command.arg(&settings).stderr(Stdio::null()).kill_on_drop(true).spawn().expect("it starts");
        let url = postgres.url().replace(&host.to_string(), &format!("127.0.0.1:{port}"));
        let report = eventually(|| async {
            let report = doctor(&url, &[], &[]).await;
            if report.said("primary", "ok").is_some() { Ok(report) } else { Err(report.text) }
        })
        .await;
        let said = report.said("notifications", "problem");
        assert_eq!(said.is_some(), is_wrong, "{}", report.text);
        assert!(said.is_none_or(|said| said.contains("pool_mode = session")), "{}", report.text);
    }
}
