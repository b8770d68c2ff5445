//! What operators decide about data streams.

use std::time::Duration;

use super::seal::Keys;
use super::source::AllowedNetworks;

/// Fetching is waiting, most of the time.
const WORKERS: usize = 8;
/// Slow APIs take seconds for a page.
const TIMEOUT: &str = "1m";
/// Of streams that fetch everything each time.
const BATCHES: i64 = 10;

/// How data streams are fetched and kept.
#[derive(Clone, Debug, clap::Args)]
pub struct StreamSettings {
    /// How many data streams are fetched at a time; 0 leaves them to others
    #[arg(long, env = "NEWCYCLE_STREAM_WORKERS", value_name = "N", default_value_t = WORKERS)]
    pub stream_workers: usize,
    /// Networks that data streams may be fetched from though they are not public, as 10.1.0.0/16,127.0.0.1 [default: none]
    #[arg(
        long,
        env = "NEWCYCLE_STREAM_NETWORKS",
        value_name = "NETWORKS",
        default_value = "",
        hide_default_value = true
    )]
    pub stream_networks: AllowedNetworks,
    /// How long a page of a data stream may take, from the request to its last byte
    #[arg(
        long, env = "NEWCYCLE_STREAM_TIMEOUT", value_name = "TIME", default_value = TIMEOUT,
        value_parser = crate::duration::parse
    )]
    pub stream_timeout: Duration,
    /// How many complete batches of a data stream are kept; of what is fetched incrementally, the newest version of each
    /// record is kept besides
    #[arg(long, env = "NEWCYCLE_STREAM_BATCHES", value_name = "N", default_value_t = BATCHES, value_parser = clap::value_parser!(i64).range(1..))]
    pub stream_batches: i64,
    /// The key that secrets of data streams are encrypted with, 64 hexadecimal digits, the same for all servers and workers;
    /// after a comma, earlier ones [default: encryption.key in the data directory, made if there is none]
    #[arg(
        long,
        env = "NEWCYCLE_ENCRYPTION_KEY",
        value_name = "KEYS",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub encryption_key: Keys,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            stream_workers: WORKERS,
            stream_networks: AllowedNetworks::default(),
            stream_timeout: Duration::from_secs(60),
            stream_batches: BATCHES,
            encryption_key: Keys::default(),
        }
    }
}
