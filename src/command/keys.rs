//! `newcycle keys`

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;
use serde::Serialize;
use sqlx::PgPool;

use super::{CommandError, print, tell};
use crate::auth::{Key, Scope, Secret, key_id, keys};
use crate::database::{Database, DatabaseSettings};

/// The keys of services and people.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = KEYS_HELP)]
pub struct KeysSettings {
    #[command(subcommand)]
    action: Action,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

const KEYS_HELP: &str = "\
Scopes:
  ledger:write     insert base items, users, items and transfers
  ledger:read      read them, and who owns what
  statistics:read  read the statistics, once and live, and /metrics
  exports          start, watch, cancel and download exports of one's own
  streams:manage   set up data streams, start and stop them
  admin            everything, also what belongs to others

A key is printed once, to standard output, and kept as a hash. Servers see every change within seconds, and end the
streams of keys that are not good any more.

Examples:
  newcycle keys create --name till-7 --scopes ledger:write
  newcycle keys create --name wallboard --scopes statistics:read --expires 365d
  newcycle keys rotate 7kq2m9xw4r3p --grace 7d      both secrets are taken for a week
  newcycle keys revoke 7kq2m9xw4r3p                 or the whole key, as somebody found it";

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Make a key, and print it: it is shown this once
    Create {
        /// What it is for: a service, a person, a place
        #[arg(long, value_parser = parse_name)]
        name: String,
        /// What its holder may do, separated by commas
        #[arg(long, value_name = "SCOPES", value_delimiter = ',', required = true, value_parser = parse_scope)]
        scopes: Vec<Scope>,
        /// When it ends by itself: a duration such as 90d, or a moment such as 2027-01-01T00:00:00Z; never, unless said
        #[arg(long, value_name = "WHEN", value_parser = parse_end)]
        expires: Option<End>,
    },
    /// List the keys that are good, and what is known of them
    List {
        /// Also those that were revoked or have expired
        #[arg(long)]
        all: bool,
    },
    /// Replace the secret of a key, and print it anew. The key stays who it is
    Rotate {
        /// The key
        id: String,
        /// How long the secret before is taken as well, so that services can go over; 0s ends it, and its sessions, at once
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = crate::duration::parse)]
        grace: Duration,
    },
    /// Set when a key ends by itself
    Expire {
        /// The key
        id: String,
        /// A duration such as 90d, a moment such as 2027-01-01T00:00:00Z, or never
        #[arg(value_name = "WHEN", value_parser = parse_end)]
        when: End,
    },
    /// End a key for good, and everything that goes on with it
    Revoke {
        /// The key
        id: String,
    },
}

/// When a key ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Never,
    At(DateTime<Utc>),
}

impl End {
    fn moment(self) -> Option<DateTime<Utc>> {
        match self {
            Self::Never => None,
            Self::At(moment) => Some(moment),
        }
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() { Err("it must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    text.trim().parse().map_err(|error: crate::auth::UnknownScope| error.to_string())
}

fn parse_end(text: &str) -> Result<End, String> {
    if text == "never" {
        return Ok(End::Never);
    }
    let now = Utc::now();
    let moment = match (humantime::parse_duration(text), DateTime::parse_from_rfc3339(text)) {
        (Ok(duration), _) => chrono::Duration::from_std(duration).ok().and_then(|span| now.checked_add_signed(span)),
        (_, Ok(moment)) => Some(moment.to_utc()),
        _ => return Err("it is neither a duration such as 90d nor a moment such as 2027-01-01T00:00:00Z".to_owned()),
    };
    match moment {
        Some(moment) if moment > now => Ok(End::At(moment)),
        Some(_) => Err("it is over already; `newcycle keys revoke` ends a key now".to_owned()),
        None => Err("it is further away than can be reckoned".to_owned()),
    }
}

pub(super) async fn run(settings: KeysSettings, database: &DatabaseSettings) -> Result<(), CommandError> {
    let database = Database::open(database).await?;
    let done = async {
        database.migrate().await?;
        act(&database.pool, settings.action, settings.json).await
    }
    .await;
    database.close().await;
    done
}

async fn act(pool: &PgPool, action: Action, json: bool) -> Result<(), CommandError> {
    let said = match action {
        Action::Create { name, scopes, expires } => {
            let expires_at = expires.and_then(End::moment);
            let (key, secret) = keys::create(pool, &name, scopes.into_iter().collect(), expires_at).await?;
            return show(&key, Some(&secret), json, &format!("created key {}: {}", key.id, describe(&key)));
        }
        Action::List { all } => return list(keys::list(pool).await?, all, json),
        Action::Rotate { id, grace } => {
            let (key, secret) = keys::rotate(pool, key_id(&id), Utc::now() + grace).await?;
            let before = match key.previous_expires_at {
                Some(until) => format!("the secret before is taken until {}", moment(until)),
                None => "the secret before is not taken any more".to_owned(),
            };
            return show(&key, Some(&secret), json, &format!("rotated key {} ({}): {before}", key.id, key.name));
        }
        Action::Expire { id, when } => keys::expire(pool, key_id(&id), when.moment()).await,
        Action::Revoke { id } => keys::revoke(pool, key_id(&id)).await,
    };
    let key = said?;
    show(&key, None, json, &format!("key {}: {}", key.id, describe(&key)))
}

/// Shows a key: its secret, if it is new, to standard output, so that a script can take it; the rest to people.
fn show(key: &Key, secret: Option<&Secret>, json: bool, said: &str) -> Result<(), CommandError> {
    #[derive(Serialize)]
    struct Shown<'a> {
        #[serde(flatten)]
        key: &'a Key,
        #[serde(rename = "key", skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    }
    let text = secret.map(Secret::key_text);
    if json {
        print(&serde_json::to_string(&Shown { key, text })?);
        return Ok(());
    }
    tell(said);
    if let Some(text) = text {
        tell("this is the only time that it is shown:");
        print(&text);
    }
    Ok(())
}

fn list(keys: Vec<Key>, all: bool, json: bool) -> Result<(), CommandError> {
    let now = Utc::now();
    let is_good = |key: &Key| key.revoked_at.is_none() && key.expires_at.is_none_or(|at| at > now);
    let shown: Vec<_> = keys.into_iter().filter(|key| all || is_good(key)).collect();
    if json {
        print(&serde_json::to_string(&shown)?);
        return Ok(());
    }
    if shown.is_empty() {
        tell("there are no keys");
    }
    for key in shown {
        print(&format!("{}  {}", key.id, describe(&key)));
    }
    Ok(())
}

/// A key in a line.
fn describe(key: &Key) -> String {
    let mut parts = vec![key.name.clone(), key.scopes.to_string()];
    parts.push(match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", moment(at)),
        (None, Some(at)) if at <= Utc::now() => format!("expired {}", moment(at)),
        (None, Some(at)) => format!("expires {}", moment(at)),
        (None, None) => "does not expire".to_owned(),
    });
    if let Some(until) = key.previous_expires_at.filter(|until| *until > Utc::now()) {
        parts.push(format!("its secret before is taken until {}", moment(until)));
    }
    parts.push(key.last_used_at.map_or("not used yet".to_owned(), |at| format!("last used {}", moment(at))));
    parts.join("; ")
}

fn moment(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_duration_a_moment_or_never() {
        assert_eq!(parse_end("never"), Ok(End::Never));
        let in_a_day = Utc::now() + chrono::Duration::days(1);
        let Ok(End::At(moment)) = parse_end("24h") else { panic!("a duration") };
        assert!((moment - in_a_day).num_seconds().abs() < 60, "{moment}");
        assert_eq!(
            parse_end("2999-01-01T01:00:00+01:00"),
            Ok(End::At("2999-01-01T00:00:00Z".parse().expect("a moment")))
        );
    }

    #[test]
    fn an_end_that_is_over_or_cannot_be_read_is_refused_with_the_reason() {
        for (text, reason) in [
            ("2020-01-01T00:00:00Z", "over already"),
            ("0s", "over already"),
            ("tomorrow", "90d"),
            ("99999999999y", ""),
        ] {
            let error = parse_end(text).expect_err(text);
            assert!(error.contains(reason), "{error}");
        }
    }
}
