//! What holds of whatever somebody else writes: a function for each kind of foreign bytes, which panics where it does not.
//!
//! They are compiled for two purposes only: `make fuzz` calls them with bytes that coverage leads to (`fuzz/`), and `cargo
//! test` with those in `fuzz/seeds`, as they are and changed at random. Each lies beside what it is about, in a module
//! `fuzzing`, as it looks at what nobody else sees. Most begin with a byte or two that choose what is done with the rest.

pub use crate::auth::fuzzing::tokens;
pub use crate::command::import::fuzzing::imports;
pub use crate::http::fuzzing::{headers, pages, queries, rows, settings};
pub use crate::listener::fuzzing::notifications;
pub use crate::statistics::fuzzing::{calendars, positions};
pub use crate::streams::fuzzing::{answers, definitions, schedules, seals, transforms};
pub use crate::tls::fuzzing::certificates;

/// Says what holds of some bytes, and panics if it does not.
pub type Target = fn(&[u8]);

/// All of them by their names, which are those of the targets in `fuzz/`.
pub const TARGETS: [(&str, Target); 16] = [
    ("answers", answers),
    ("calendars", calendars),
    ("certificates", certificates),
    ("definitions", definitions),
    ("headers", headers),
    ("imports", imports),
    ("notifications", notifications),
    ("pages", pages),
    ("positions", positions),
    ("queries", queries),
    ("rows", rows),
    ("schedules", schedules),
    ("seals", seals),
    ("settings", settings),
    ("tokens", tokens),
    ("transforms", transforms),
];

/// The first byte, which chooses, and the rest.
pub(crate) fn choice(bytes: &[u8]) -> Option<(usize, &[u8])> {
    bytes.split_first().map(|(first, rest)| (usize::from(*first), rest))
}

/// The same where the rest is to be text.
pub(crate) fn choice_and_text(bytes: &[u8]) -> Option<(usize, &str)> {
    let (choice, rest) = choice(bytes)?;
    Some((choice, std::str::from_utf8(rest).ok()?))
}

/// The first eight bytes as a number, and the rest.
pub(crate) fn number(bytes: &[u8]) -> Option<(i64, &[u8])> {
    bytes.split_first_chunk().map(|(number, rest)| (i64::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;

    fn fuzz(path: &str) -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz")).join(path)
    }

    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let files = fs::read_dir(fuzz("seeds").join(name)).expect("there are seeds");
        files.map(|file| fs::read(file.expect("a file").path()).expect("it can be read")).collect()
    }

    fn of_any_target() -> impl Strategy<Value = (Target, Vec<u8>)> {
        let all: Vec<_> =
            TARGETS.iter().flat_map(|(name, target)| seeds(name).into_iter().map(|seed| (*target, seed))).collect();
        select(all)
    }

    #[test]
    fn every_target_is_in_the_manifest_and_has_seeds_of_which_it_holds() {
        let manifest = fs::read_to_string(fuzz("Cargo.toml")).expect("there is one");
        for (name, target) in TARGETS {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            let seeds = seeds(name);
            assert!(!seeds.is_empty(), "{name}");
            seeds.iter().for_each(|seed| target(seed));
        }
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn targets_hold_of_seeds_that_are_changed_at_random(
            (target, mut bytes) in of_any_target(),
            changes in proptest::collection::vec((any::<Index>(), any::<u8>(), 0..4_u8), 1..8),
        ) {
            for (at, byte, kind) in changes {
                let at = at.index(bytes.len() + 1);
                match kind {
                    0 if at < bytes.len() => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 if at < bytes.len() => drop(bytes.remove(at)),
                    _ => bytes.extend_from_within(..at),
                }
            }
            target(&bytes);
        }

        #[test]
        fn targets_hold_of_anything(target in select(&TARGETS), bytes: Vec<u8>) {
            target.1(&bytes);
        }
    }
}
