//! How far a reader has come: which transactions, and which single deltas beyond them, it has counted.
//!
//! Transactions do not commit in the order of their ids, so "everything up to number n" cannot be said with one number.
//! Postgres says it with a snapshot: all transactions below `xmin` have ended, none from `xmax` on has, and of those
//! between, the ones listed had not. A position is such a snapshot and the ids of the deltas that were heard since.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// A position with more loose ends than this is written without them. A reader who resumes from it gets some values
/// again that it already had; it never misses one.
const WRITTEN_RANGES: usize = 48;

/// The set of transactions that are visible: `pg_snapshot` of Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Every transaction below has ended.
    pub xmin: u64,
    /// No transaction from here on had ended.
    pub xmax: u64,
    /// Those between the two that had not ended, ascending.
    pub in_progress: Vec<u64>,
}

/// Text that is not a snapshot or a position.
#[derive(Debug, thiserror::Error)]
#[error("not a position in the stream of changes")]
pub struct MalformedPosition;

impl Snapshot {
    /// Whether the transaction had ended when the snapshot was taken.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Snapshot {
    type Err = MalformedPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| MalformedPosition);
        let mut parts = text.splitn(3, ':');
        let mut next = || parts.next().ok_or(MalformedPosition);
        let (xmin, xmax, listed) = (number(next()?)?, number(next()?)?, next()?);
        let in_progress =
            if listed.is_empty() { Vec::new() } else { listed.split(',').map(number).collect::<Result<_, _>>()? };
        let ascending = in_progress.windows(2).all(|pair| pair[0] < pair[1]);
        let between = in_progress.iter().all(|xid| (xmin..xmax).contains(xid));
        if xmin == 0 || xmin > xmax || !ascending || !between {
            return Err(MalformedPosition);
        }
        Ok(Self { xmin, xmax, in_progress })
    }
}

/// A set of delta ids, kept as ranges: ids are given in sequence, so most of them are neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeltaIds(BTreeMap<i64, i64>);

impl DeltaIds {
    /// Adds an id; whether it was new.
    pub fn insert(&mut self, id: i64) -> bool {
        if self.contains(id) {
            return false;
        }
        let mut range = (id, id);
        if let Some((&first, &last)) = self.0.range(..id).next_back()
            && last == id - 1
        {
            self.0.remove(&first);
            range.0 = first;
        }
        if let Some(last) = id.checked_add(1).and_then(|next| self.0.remove(&next)) {
            range.1 = last;
        }
        self.0.insert(range.0, range.1);
        true
    }

    /// Whether the id is in the set.
    pub fn contains(&self, id: i64) -> bool {
        self.0.range(..=id).next_back().is_some_and(|(_, &last)| id <= last)
    }

    /// The ranges, ascending, ends included.
    pub fn ranges(&self) -> impl Iterator<Item = (i64, i64)> {
        self.0.iter().map(|(&first, &last)| (first, last))
    }
}

/// Everything that a reader has counted.
///
/// **Invariant:** a reader at this position has counted every delta of a transaction that the snapshot sees, and every
/// delta listed. It may have counted more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The history that the rest refers to. It changes when the statistics are rebuilt.
    pub epoch: Uuid,
    /// The transactions that were counted.
    pub snapshot: Snapshot,
    /// Deltas of other transactions that were counted too.
    pub heard: DeltaIds,
}

impl Position {
    /// Whether the delta is among what has been counted.
    pub fn includes(&self, xid: u64, delta_id: i64) -> bool {
        self.snapshot.sees(xid) || self.heard.contains(delta_id)
    }
}

/// `epoch/snapshot/ids`, for instance `5f0c…/731:735:732/1001-1050,1053`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.epoch.simple())?;
        if self.snapshot.in_progress.len() <= WRITTEN_RANGES {
            write!(f, "{}/", self.snapshot)?;
        } else {
            // Claims less: nothing from xmin on has been seen.
            write!(f, "{0}:{0}:/", self.snapshot.xmin)?;
        }
        for (i, (first, last)) in self.heard.ranges().take(WRITTEN_RANGES).enumerate() {
            f.write_str(if i == 0 { "" } else { "," })?;
            if first == last { write!(f, "{first}")? } else { write!(f, "{first}-{last}")? }
        }
        Ok(())
    }
}

impl FromStr for Position {
    type Err = MalformedPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '/');
        let mut next = || parts.next().ok_or(MalformedPosition);
        let epoch = Uuid::try_parse(next()?).map_err(|_| MalformedPosition)?;
        let snapshot = next()?.parse()?;
        let listed = next()?;
        let number = |text: &str| text.parse::<i64>().map_err(|_| MalformedPosition);
        let mut heard = DeltaIds::default();
        for range in listed.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (number(first)?, number(last)?);
            let after_the_previous = heard.0.last_key_value().is_none_or(|(_, &previous)| previous < first);
            if first > last || !after_the_previous {
                return Err(MalformedPosition);
            }
            heard.0.insert(first, last);
        }
        Ok(Self { epoch, snapshot, heard })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_postgres_says_it_sees() {
        let snapshot: Snapshot = "10:14:10,12".parse().unwrap();
        let seen: Vec<u64> = (8..16).filter(|&xid| snapshot.sees(xid)).collect();
        assert_eq!(seen, [8, 9, 11, 13]);
    }

    #[test]
    fn forged_positions_are_refused() {
        let epoch = Uuid::nil().simple().to_string();
        for text in [
            "",
            "0",
            "/",
            "x/10:10:/",
            &format!("{epoch}/10:9:/"),
            &format!("{epoch}/0:9:/"),
            &format!("{epoch}/10:12:15/"),
            &format!("{epoch}/10:12:11,10/"),
            &format!("{epoch}/10:12:/5-3"),
            &format!("{epoch}/10:12:/5-9,7"),
            &format!("{epoch}/10:12:/a"),
            &format!("{epoch}/10:12"),
        ] {
            assert!(text.parse::<Position>().is_err(), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn ids_are_a_set(ids in proptest::collection::vec(0_i64..60, 0..80)) {
            let mut set = DeltaIds::default();
            let mut model = std::collections::BTreeSet::new();
            for &id in &ids {
                assert_eq!(set.insert(id), model.insert(id));
            }
            for id in -1..61 {
                assert_eq!(set.contains(id), model.contains(&id));
            }
            let ranges: Vec<_> = set.ranges().collect();
            assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "neighbours are one range: {ranges:?}");
        }

        #[test]
        fn positions_read_back_as_they_were_written(
            xmin in 1_u64..50, width in 0_u64..20, listed in proptest::collection::btree_set(0_u64..20, 0..8),
            ids in proptest::collection::vec(0_i64..60, 0..40),
        ) {
            let in_progress = listed.into_iter().filter(|offset| *offset < width).map(|offset| xmin + offset).collect();
            let snapshot = Snapshot { xmin, xmax: xmin + width, in_progress };
            let mut heard = DeltaIds::default();
            for id in ids {
                heard.insert(id);
            }
            let position = Position { epoch: Uuid::from_u128(7), snapshot, heard };
            assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
        }
    }
}
