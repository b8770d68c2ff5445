//! What operators decide about exports.

use std::time::Duration;

use super::Store;

/// A colleague who was sent the link has the file within the hour.
const LIFETIME: &str = "1h";
/// Two are made while a third waits: each takes a connection to Postgres, and most of a core.
const WORKERS: usize = 2;
const MOST_ALIVE: u32 = 100;
const MOST_ALIVE_PER_KEY: u32 = 10;

/// How exports are made and kept.
#[derive(Clone, Debug, clap::Args)]
pub struct ExportSettings {
    /// Where files of exports are kept: a directory, or s3://bucket/prefix of S3 or a store that speaks its protocol, with
    /// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, if it is not Amazon's, AWS_ENDPOINT [default: exports in
    /// the data directory]
    #[arg(long, env = "NEWCYCLE_EXPORT_STORE", value_name = "STORE", default_value = "", hide_default_value = true)]
    pub export_store: Store,
    /// How long the file of an export is kept
    #[arg(
        long, env = "NEWCYCLE_EXPORT_LIFETIME", value_name = "TIME", default_value = LIFETIME,
        value_parser = crate::duration::parse
    )]
    pub export_lifetime: Duration,
    /// How many exports this server makes at a time; 0 leaves them to others
    #[arg(long, env = "NEWCYCLE_EXPORT_WORKERS", value_name = "N", default_value_t = WORKERS)]
    pub export_workers: usize,
    /// How many exports may wait or run; a further one is answered 503
    #[arg(long, env = "NEWCYCLE_MAX_EXPORTS", value_name = "N", default_value_t = MOST_ALIVE)]
    pub max_exports: u32,
    /// How many of them by one key; a further one is answered 429
    #[arg(long, env = "NEWCYCLE_MAX_EXPORTS_PER_KEY", value_name = "N", default_value_t = MOST_ALIVE_PER_KEY)]
    pub max_exports_per_key: u32,
}

impl Default for ExportSettings {
    fn default() -> Self {
        Self {
            export_store: Store::default(),
            export_lifetime: Duration::from_secs(60 * 60),
            export_workers: WORKERS,
            max_exports: MOST_ALIVE,
            max_exports_per_key: MOST_ALIVE_PER_KEY,
        }
    }
}

/// As many exports wait or run as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// Of the caller.
    PerCaller(u32),
    /// In all.
    All(u32),
}
