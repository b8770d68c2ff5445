//! The steps of a row, as spans of the trace that it belongs to: the wait for its statement, then the statement.
//!
//! A statement serves many requests and is one span, within the first of them. The others have a span of their own for the
//! same time, with a link to it; and it has links to all of them.

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::telemetry::SPANS;

/// What a row is waiting for.
#[derive(Debug)]
pub(super) struct Steps {
    request: Context,
    now: Span,
}

impl Steps {
    /// The row waits. Nothing if there are no traces, or this one is not kept.
    pub(super) fn begin(table: &'static str) -> Option<Box<Self>> {
        let now = tracing::info_span!(target: SPANS, "wait for the group commit", db.collection.name = table);
        if now.is_disabled() {
            return None;
        }
        let request = Context::current();
        request.span().span_context().is_sampled().then(|| Box::new(Self { request: request.clone(), now }))
    }

    /// The row is being written. The wait ends as it is replaced.
    fn write(&mut self) {
        self.now = tracing::info_span!(target: SPANS, parent: None, "group commit");
        // It cannot fail, as nobody has looked at the span before.
        let _ = self.now.set_parent(self.request.clone());
    }
}

/// The statement for so many rows begins, some of which have steps that somebody looks at.
pub(super) fn statement<'a>(table: &'static str, rows: usize, steps: impl Iterator<Item = &'a mut Steps>) -> Span {
    let mut steps: Vec<_> = steps.collect();
    steps.iter_mut().for_each(|steps| steps.write());
    let Some(first) = steps.first() else { return Span::none() };
    let statement = tracing::info_span!(
        target: SPANS,
        parent: None,
        "statement",
        otel.name = format!("INSERT {table}"),
        db.system.name = "postgresql",
        db.operation.name = "INSERT",
        db.collection.name = table,
        db.operation.batch.size = i64::try_from(rows).unwrap_or(i64::MAX),
    );
    // As above.
    let _ = statement.set_parent(first.now.context());
    for steps in &steps {
        statement.add_link(steps.request.span().span_context().clone());
    }
    let shared = statement.context().span().span_context().clone();
    for steps in &steps {
        steps.now.add_link(shared.clone());
    }
    statement
}
