//! `newcycle ready`

use std::process::ExitCode;

use reqwest::{Client, Response};

use super::print;

/// Whom to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct ReadySettings {
    /// Address of the server. With https://, any certificate will do: nothing secret is sent, and nothing but a status
    /// is believed
    #[arg(long, env = "NEWCYCLE_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
}

pub(super) async fn run(settings: &ReadySettings) -> ExitCode {
    let (ready, text) = match ask(settings).await {
        Ok(answer) => (answer.status().is_success(), answer.text().await.unwrap_or_default()),
        Err(error) => (false, error.to_string()),
    };
    print(&text);
    if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn ask(settings: &ReadySettings) -> reqwest::Result<Response> {
    // Asked from beside the server, most often by its loopback address, for which no certificate is made. Nothing is
    // looked up in the system's own certificates then either: images without them are common.
    let client = Client::builder().tls_danger_accept_invalid_certs(true).build()?;
    client.get(format!("{}/readyz", settings.url.trim_end_matches('/'))).send().await
}
