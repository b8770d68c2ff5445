//! newcycle keeps a ledger of things that change hands, and shows everyone who watches how many, exactly and at once.
//!
//! The layers, each knowing only those above it:
//!
//! - [`statistics`]: what is counted, buckets in time zones, positions in the stream of changes, and the queries;
//! - [`hub`]: live series in memory, joined to the changes by snapshots, and their subscribers;
//! - [`audit`]: who wrote what through which key;
//! - [`ledger`]: base items, users, items and transfers in Postgres, inserted one by one or in bulk;
//! - [`tls`]: certificates from files, for whoever serves;
//! - [`database`]: the connection, the schema, and a Postgres of our own where none is given;
//! - [`auth`]: who a caller is, and what they may do;
//! - [`listener`]: hears from Postgres what was written, and alone tells the hub;
//! - [`jobs`]: a queue of leases for what takes longer than a request, and a bell that rings when something changes;
//! - [`exports`]: the ledger as files: their states, the workers that make them, the store;
//! - [`metrics`]: what is looked up when somebody asks how the server is;
//! - [`http`]: the REST interface, the streams, the dashboard; imports everyone, imported only by [`server`];
//! - [`server`] puts the tasks together, [`command`] is the command line, [`telemetry`] the logs and traces.
//!
//! Start reading at [`server::run`], then follow a transfer through `migrations/0002_statistics.sql`, [`listener`] and
//! [`hub`]. ARCHITECTURE.md has the reasons.

pub mod audit;
pub mod auth;
pub mod command;
pub mod database;
mod duration;
pub mod exports;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod hub;
pub mod jobs;
pub mod keep_alive;
pub mod ledger;
pub mod listener;
pub mod metrics;
pub mod server;
pub mod statistics;
pub mod streams;
pub mod telemetry;
pub mod tls;
