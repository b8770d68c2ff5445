//! What is measured.

mod bulk;
mod exports;
mod fan_out;
mod flood;
mod foreign_writers;
mod latency;
mod queries;
mod single_row;

use std::error::Error;
use std::fmt;

use clap::ValueEnum;

use crate::report::{Bar, Section};
use crate::{Outcome, Run};

/// A measurement by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measurement {
    /// One-row inserts: pgbench against POST
    SingleRow,
    /// Many rows: \copy against POST
    Bulk,
    /// From an insert to 100 streams
    Latency,
    /// 10,000 streams: nchan against newcycle, and their memory
    FanOut,
    /// Statistics of few events and of many
    Queries,
    /// pgbench with newcycle's triggers and without
    ForeignWriters,
    /// Files of the ledger: \copy to against exports, and their memory
    Exports,
    /// One client floods, another is to notice nothing; and what keys cost
    Flood,
}

impl Measurement {
    pub(crate) const ALL: [Self; 8] = [
        Self::SingleRow,
        Self::Bulk,
        Self::Latency,
        Self::FanOut,
        Self::Queries,
        Self::ForeignWriters,
        Self::Exports,
        Self::Flood,
    ];

    pub(crate) async fn take(self, run: &Run) -> Outcome<Section> {
        match self {
            Self::SingleRow => single_row::measure(run).await,
            Self::Bulk => bulk::measure(run).await,
            Self::Latency => latency::measure(run).await,
            Self::FanOut => fan_out::measure(run).await,
            Self::Queries => queries::measure(run).await,
            Self::ForeignWriters => foreign_writers::measure(run).await,
            Self::Exports => exports::measure(run).await,
            Self::Flood => flood::measure(run).await,
        }
    }

    /// The section of one that failed.
    pub(crate) fn failed(self, error: &(dyn Error + Send + Sync)) -> Section {
        let mut section = Section::new(self.to_string());
        section.bars.push(Bar::not_measured(self.to_string(), "—", &format!("failed: {error}")));
        section
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::SingleRow => "Single rows",
            Self::Bulk => "Bulk",
            Self::Latency => "Latency of streams",
            Self::FanOut => "Fan-out",
            Self::Queries => "Statistics queries",
            Self::ForeignWriters => "Foreign writers",
            Self::Exports => "Exports",
            Self::Flood => "Floods",
        })
    }
}
