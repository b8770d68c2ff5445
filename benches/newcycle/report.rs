//! `RESULTS.md`: the bars and whether they are met, then every measurement with all its figures.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Outcome;
use crate::machine::Description;

const INTRODUCTION: &str = "\
# What newcycle does on one machine

Written by `make bench`, which runs everything anew: the server (the release build, as a process of its own), a Postgres
with fsync on, the peers and the load generator, all on one machine and over loopback. They share its cores, so these are
figures for everything together on so many cores, not for the server alone.

## How to read it

- **The median of the repetitions, and in parentheses the lowest and the highest.** Peers and newcycle took turns, so that
  a machine that got slower got slower for both.
- **Latencies begin at the moment at which a request was to be sent** by a schedule that waits for nobody (an open loop),
  not at the moment at which it could be sent. A server that stalls does not hide behind the requests it kept from being
  sent. Rates, on the other hand, are taken with every connection busy all the time (a closed loop).
- Warm-up is not counted. Statistics are folded once a second as always.
- After each run that inserts, the ledger must have exactly the rows that were acknowledged, the statistics must agree
  with a recount, and every stream must show the same: otherwise the bench fails.
- A bar is what was set as the aim before measuring. One that is missed is shown as such, and is no failure of the bench.
";

const PART: &str = "
**Only a part of the bench, or a short run of it to try it: these figures are not for comparing.**
";

/// A row of the table of bars.
#[derive(Debug)]
pub(crate) struct Bar {
    what: String,
    bar: String,
    measured: String,
    /// Unknown when it was not measured.
    met: Option<bool>,
}

impl Bar {
    pub(crate) fn new(what: impl Into<String>, bar: impl Into<String>, measured: impl Into<String>, met: bool) -> Self {
        Self { what: what.into(), bar: bar.into(), measured: measured.into(), met: Some(met) }
    }

    pub(crate) fn not_measured(what: impl Into<String>, bar: impl Into<String>, why: &str) -> Self {
        // On one line: a table has no room for more.
        let measured = why.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { what: what.into(), bar: bar.into(), measured, met: None }
    }
}

/// What a measurement has to say.
#[derive(Debug)]
pub(crate) struct Section {
    title: String,
    pub(crate) bars: Vec<Bar>,
    /// Markdown.
    pub(crate) text: String,
    /// Drawings, by the name of the file.
    pub(crate) plots: Vec<(&'static str, String)>,
    /// What else took part.
    pub(crate) versions: Description,
}

impl Section {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), bars: Vec::new(), text: String::new(), plots: Vec::new(), versions: Vec::new() }
    }

    /// Adds a paragraph.
    pub(crate) fn say(&mut self, paragraph: &str) {
        self.text.push_str(paragraph);
        self.text.push_str("\n\n");
    }

    /// Adds a table.
    pub(crate) fn table(&mut self, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        self.text.push_str(&table(head, rows));
        self.text.push('\n');
    }
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<_> = head.iter().map(ToString::to_string).collect();
    let mut table = line(&head);
    table.push_str(&line(&vec!["---".to_owned(); head.len()]));
    rows.into_iter().for_each(|row| table.push_str(&line(&row)));
    table
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Description,
    /// Whether everything is measured, as long and as large as it should be.
    whole: bool,
    pub(crate) sections: Vec<Section>,
    pub(crate) took: Duration,
}

impl Report {
    pub(crate) fn new(machine: Description, whole: bool) -> Self {
        Self { machine, whole, sections: Vec::new(), took: Duration::ZERO }
    }

    /// The bars.
    pub(crate) fn table(&self) -> String {
        let met = |bar: &Bar| bar.met.map_or("not measured", |met| if met { "met" } else { "**not met**" }).to_owned();
        let bars = self.sections.iter().flat_map(|section| &section.bars);
        let rows = bars.map(|bar| vec![bar.what.clone(), bar.bar.clone(), bar.measured.clone(), met(bar)]);
        table(&["what", "bar", "measured", ""], rows)
    }

    /// Writes it and its plots; where it is.
    pub(crate) fn write(&self, directory: &Path) -> Outcome<PathBuf> {
        fs::create_dir_all(directory)?;
        let part = if self.whole { "" } else { PART };
        let mut text = format!("{INTRODUCTION}{part}\n## Bars\n\n{}\n## Machine\n\n", self.table());
        let minutes = self.took.as_secs_f64() / 60.0;
        let mut lines = self.machine.clone();
        for version in self.sections.iter().flat_map(|section| &section.versions) {
            if !lines.contains(version) {
                lines.push(version.clone());
            }
        }
        let today = chrono::Utc::now().date_naive();
        lines.push(("run", format!("{today}, {minutes:.0} minutes")));
        text.push_str(&table(&["", ""], lines.into_iter().map(|(what, which)| vec![what.to_owned(), which])));
        for section in &self.sections {
            write!(text, "\n## {}\n\n{}", section.title, section.text)?;
            for (name, drawing) in &section.plots {
                fs::write(directory.join(name), drawing)?;
                writeln!(text, "![{}]({name})", section.title)?;
            }
        }
        let path = directory.join("RESULTS.md");
        fs::write(&path, format!("{}\n", text.trim_end()))?;
        Ok(path)
    }
}
