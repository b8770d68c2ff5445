//! What is measured.

mod fan_out;
mod latency;
mod single_row;

use std::error::Error;
use std::fmt;

use clap::ValueEnum;

use crate::report::Section;
use crate::{Outcome, Run};

/// A measurement by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measurement {
    /// One-row inserts: pgbench against POST
    SingleRow,
    /// From an insert to 100 streams
    Latency,
    /// 10,000 streams: nchan against newcycle, and their memory
    FanOut,
}

impl Measurement {
    pub(crate) const ALL: [Self; 3] = [Self::SingleRow, Self::Latency, Self::FanOut];

    pub(crate) async fn take(self, run: &Run) -> Outcome<Section> {
        match self {
            Self::SingleRow => single_row::measure(run).await,
            Self::Latency => latency::measure(run).await,
            Self::FanOut => fan_out::measure(run).await,
        }
    }

    /// The section of one that failed.
    pub(crate) fn failed(self, error: &(dyn Error + Send + Sync)) -> Section {
        let mut section = Section::new(format!("{self}: failed"));
        section.bars.push(crate::report::Bar::not_measured(self.to_string(), "—", format!("failed: {error}")));
        section
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::SingleRow => "Single rows",
            Self::Latency => "Latency of streams",
            Self::FanOut => "Fan-out",
        })
    }
}
