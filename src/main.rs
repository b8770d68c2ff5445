//! The `newcycle` program: reads the command line and does what it says.

use std::process::ExitCode;

use clap::Parser;
use newcycle::command::{self, CommandLine};

#[tokio::main]
async fn main() -> ExitCode {
    command::run(CommandLine::parse()).await
}
