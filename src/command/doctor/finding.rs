//! What a check found, and how that is told.

use std::fmt;
use std::fmt::Write;

use serde::Serialize;

/// Findings of a check stand below each other.
const WIDTH_OF_NAMES: usize = 14;
const WIDTH_OF_MARKS: usize = 8;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mark {
    /// As it should be.
    Ok,
    /// Nobody could look, or there is nothing to look at.
    Skipped,
    /// It works, and may not for long.
    Warning,
    /// Something is lost, wrong or away, or will be.
    Problem,
}

impl fmt::Display for Mark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "WARNING",
            Self::Problem => "PROBLEM",
        })
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) mark: Mark,
    /// In a sentence.
    pub(super) found: String,
    /// What to do about it: a command, a statement, or a setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(found: impl Into<String>) -> Self {
        Self { mark: Mark::Ok, found: found.into(), remedy: None }
    }

    pub(super) fn skipped(found: impl Into<String>) -> Self {
        Self { mark: Mark::Skipped, found: found.into(), remedy: None }
    }

    pub(super) fn warning(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { mark: Mark::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn problem(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { mark: Mark::Problem, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// What a check found, with its name.
#[derive(Debug, Serialize)]
struct Line {
    check: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

/// What all checks found.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<Line>);

/// The report as machines read it.
#[derive(Serialize)]
struct Document<'a> {
    is_fine: bool,
    problems: usize,
    warnings: usize,
    findings: &'a [Line],
}

impl Report {
    /// Adds what a check found.
    pub(super) fn add(&mut self, check: &'static str, findings: impl IntoIterator<Item = Finding>) {
        self.0.extend(findings.into_iter().map(|finding| Line { check, finding }));
    }

    /// Adds what a check found, or that all is well if it found nothing.
    pub(super) fn add_or(&mut self, check: &'static str, findings: Vec<Finding>, fine: &str) {
        if findings.is_empty() {
            self.add(check, [Finding::ok(fine)]);
        } else {
            self.add(check, findings);
        }
    }

    pub(super) fn count(&self, mark: Mark) -> usize {
        self.0.iter().filter(|line| line.finding.mark == mark).count()
    }

    pub(super) fn is_fine(&self) -> bool {
        self.count(Mark::Problem) == 0
    }

    pub(super) fn as_json(&self) -> Result<String, serde_json::Error> {
        let (problems, warnings) = (self.count(Mark::Problem), self.count(Mark::Warning));
        serde_json::to_string_pretty(&Document { is_fine: self.is_fine(), problems, warnings, findings: &self.0 })
    }
}

/// A line a finding, with what to do about it below; and in the end what it comes to.
impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { check, finding: Finding { mark, found, remedy } } in &self.0 {
            let found = found.replace('\n', " ");
            writeln!(formatter, "{mark:WIDTH_OF_MARKS$} {check:WIDTH_OF_NAMES$} {found}")?;
            if let Some(remedy) = remedy {
                writeln!(formatter, "{:WIDTH_OF_MARKS$} {:WIDTH_OF_NAMES$} -> {remedy}", "", "")?;
            }
        }
        let counted = |mark, one, many| match self.count(mark) {
            0 => format!("no {many}"),
            1 => format!("1 {one}"),
            number => format!("{number} {many}"),
        };
        let mut sum = counted(Mark::Problem, "problem", "problems");
        let _ = write!(sum, ", {}", counted(Mark::Warning, "warning", "warnings"));
        formatter.write_str(&sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_is_wrong_and_what_to_do() {
        let mut report = Report::default();
        report.add("tls", [Finding::ok("no TLS")]);
        assert!(report.is_fine());
        report.add("settings", [Finding::problem("fsync\nis off", "fsync = on"), Finding::warning("slow", "wait")]);
        let text = report.to_string();
        assert!(!report.is_fine());
        assert!(text.contains("PROBLEM  settings       fsync is off\n") && text.contains("-> fsync = on"), "{text}");
        assert!(text.ends_with("1 problem, 1 warning"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&report.as_json().expect("JSON")).expect("JSON");
        assert_eq!(json["findings"][1]["remedy"], "fsync = on");
        assert_eq!((&json["is_fine"], &json["problems"]), (&false.into(), &1.into()));
    }
}
