//! All live series, found by their key and by what they count.

use std::collections::HashMap;

use uuid::Uuid;

use super::series::Series;
use crate::statistics::{Delta, Metric, SeriesKey};

/// What a series counts: a metric, of all base items or of one.
type Subject = (Metric, Option<Uuid>);

/// Two steps lead to a series, so that a delta finds those that it counts in without looking at any other.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    subjects: HashMap<Subject, HashMap<SeriesKey, Series>>,
    size: usize,
}

impl Catalogue {
    pub(super) fn len(&self) -> usize {
        self.size
    }

    pub(super) fn contains(&self, key: &SeriesKey) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn get(&self, key: &SeriesKey) -> Option<&Series> {
        self.subjects.get(&subject_of(key))?.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &SeriesKey) -> Option<&mut Series> {
        self.subjects.get_mut(&subject_of(key))?.get_mut(key)
    }

    /// The series with this key, a new one if there is none.
    pub(super) fn get_or_add(&mut self, key: &SeriesKey) -> &mut Series {
        self.subjects.entry(subject_of(key)).or_default().entry(key.clone()).or_insert_with(|| {
            self.size += 1;
            Series::new(key.clone())
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Series> {
        self.subjects.values().flat_map(HashMap::values)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Series> {
        self.subjects.values_mut().flat_map(HashMap::values_mut)
    }

    /// The series in which a delta counts.
    pub(super) fn covering(&mut self, delta: &Delta) -> impl Iterator<Item = &mut Series> {
        let of_all_and_one = [&(delta.metric, None), &(delta.metric, Some(delta.base_item))];
        self.subjects.get_disjoint_mut(of_all_and_one).into_iter().flatten().flat_map(HashMap::values_mut)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Series) -> bool) {
        self.subjects.retain(|_, series| {
            series.retain(|_, series| keep(series));
            !series.is_empty()
        });
        self.size = self.subjects.values().map(HashMap::len).sum();
    }
}

fn subject_of(key: &SeriesKey) -> Subject {
    (key.metric, key.base_item)
}
