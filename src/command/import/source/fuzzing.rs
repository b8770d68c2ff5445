//! What holds of files that are imported.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::mpsc;

use super::{Counted, FromColumns, Input, Portions, Rows, csv_rows, read_csv, read_ndjson};
use crate::fuzzing::choice;
use crate::ledger::bulk::Line;
use crate::ledger::{NewBaseItem, NewItem, NewTransfer, NewUser};

/// More portions than a fuzzer's input has rows: nobody takes them out meanwhile.
const MOST_PORTIONS: usize = 10_000;

/// Rows of CSV and NDJSON, of every kind of record.
pub fn imports(bytes: &[u8]) {
    let Some((choice, text)) = choice(bytes) else { return };
    match choice % 4 {
        0 => all::<NewBaseItem>(choice, text),
        1 => all::<NewUser>(choice, text),
        2 => all::<NewItem>(choice, text),
        _ => all::<NewTransfer>(choice, text),
    }
}

fn all<N: FromColumns + serde::de::DeserializeOwned>(choice: usize, text: &[u8]) {
    let capacity = (choice / 8).max(1);
    let counted = Counted { input: Box::new(std::io::Cursor::new(text.to_vec())), read: Arc::new(AtomicU64::new(0)) };
    // Small buffers cut rows in the middle.
    let input = Input::with_capacity(capacity, counted);
    let (sender, mut receiver) = mpsc::channel(MOST_PORTIONS);
    let mut portions = Portions { sender, portion: Vec::<Line<N>>::new() };
    let outcome = if choice & 4 == 0 {
        read_ndjson(input, &mut portions)
    } else {
        match csv_rows::<N>(input) {
            Ok(Rows::Csv { reader, header }) => read_csv(reader, &header, &mut portions),
            Ok(Rows::Ndjson(_)) => unreachable!("it is CSV"),
            Err(fault) => Err(fault),
        }
    };
    portions.send();
    drop(portions);
    let physical = lines(text);
    // Such a one ends a row, though it may end no line.
    let has_lone_returns = text.split(|byte| *byte == b'\r').skip(1).any(|after| after.first() != Some(&b'\n'));
    let mut last = 0;
    while let Ok(Ok(lines)) = receiver.try_recv() {
        for Line { number, content } in lines {
            assert!(last < number || (has_lone_returns && last == number), "{number} after {last}");
            assert!(number <= physical, "{number} of {physical}");
            last = number;
            if let Err(rejection) = content {
                assert!(rejection.line == number && !rejection.detail.is_empty());
            }
        }
    }
    if let Err((line, _)) = outcome {
        assert!(line <= physical + 1 && line >= last, "{line} after {last} of {physical}");
    }
}

/// How many lines a text has, whose ends are what the first one is.
fn lines(text: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(text).replace("\r\n", "\n");
    let returns_count = text.find(['\r', '\n']).is_some_and(|end| text[end..].starts_with('\r'));
    let ends = text.matches(|end| end == '\n' || (end == '\r' && returns_count)).count();
    ends as u64 + 1
}
