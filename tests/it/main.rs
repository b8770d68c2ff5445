//! Everything against real Postgres, over real sockets: one throwaway cluster a run, one database a test.

#![expect(unreachable_pub, reason = "the modules of one test binary")]

mod access;
mod api;
mod append_only;
mod assets;
mod bulk;
mod calendar;
mod client;
mod connections;
mod counts;
mod demo;
mod embedded;
mod exactness;
mod export_command;
mod export_faults;
mod export_files;
mod export_store;
mod exports;
mod guard;
mod harness;
mod identity_provider;
mod import;
mod jobs;
mod keys;
mod ledger;
mod limits;
mod notifications;
mod openapi;
mod parents;
mod plans;
mod ranges;
mod reporting;
mod service;
mod sessions;
mod shares;
mod smoke;
mod source;
mod stream_faults;
mod stream_records;
mod streams;
mod tls;
mod tokens;
mod upgrade;
mod writer;
