//! What happens in the demo: a shop that lends, refurbishes and sells on what others no longer need.

use std::f64::consts::TAU;

use serde_json::json;
use uuid::Uuid;

use super::random::Random;

/// What the shop has, the most wanted first.
pub(super) const KINDS: [&str; 12] = [
    "City bike, 7 gears",
    "Cargo bike with rain cover",
    "Cordless drill, 18 V",
    "Child seat for bicycles",
    "Stroller, foldable",
    "Laptop, refurbished",
    "Sewing machine",
    "Pressure washer",
    "Tent for four",
    "Projector and screen",
    "Espresso machine, descaled",
    "Cello, three-quarter size",
];
/// The ids of [`KINDS`], but for the last byte: the same in every run, so that a second run adds no second set. Version
/// 8 (RFC 9562) leaves the bits to us: they spell "newcycle" where they can.
const FIRST_KIND: u128 = 0x6e65_7763_7963_8c65_8000_0000_0000_0000;
/// Shares of what happens; the rest are new users.
const TRANSFERS: f64 = 0.6;
const NEW_ITEMS: f64 = 0.3;
/// So many items and users are remembered: plenty for variety, and memory stays small however long a demo runs.
const REMEMBERED: usize = 10_000;
/// Busy and quiet times: waves of (period in seconds, height as a share of the rate). The heights add up to less than
/// one, so there is always something, and a page that shows minutes sees several of each.
const WAVES: [(f64, f64); 2] = [(23.0, 0.45), (7.3, 0.3)];

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Transfer,
    Item,
    User,
}

impl Kind {
    /// Where it is posted.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Transfer => "/transfers",
            Self::Item => "/items",
            Self::User => "/users",
        }
    }
}

/// Something that happens. It has an id of its own, so that it can be sent again when the answer was lost.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) kind: Kind,
    pub(super) id: Uuid,
    pub(super) body: serde_json::Value,
}

/// Makes up what happens next, of items and users that exist.
#[derive(Debug)]
pub(super) struct Story {
    random: Random,
    items: Vec<Uuid>,
    users: Vec<Uuid>,
}

impl Story {
    pub(super) fn new(random: Random) -> Self {
        Self { random, items: Vec::new(), users: Vec::new() }
    }

    /// The base items, as they are posted.
    pub(super) fn base_items() -> Vec<serde_json::Value> {
        let base_item =
            |(number, description)| json!({"id": base_item_id(number).to_string(), "description": description});
        KINDS.into_iter().enumerate().map(base_item).collect()
    }

    /// Whether a base item is one of the demo's.
    pub(super) fn has_base_item(id: Uuid) -> bool {
        (0..KINDS.len()).any(|number| base_item_id(number) == id)
    }

    /// How many users there are to hand things to.
    pub(super) fn users(&self) -> usize {
        self.users.len()
    }

    /// From now on, this can be part of the story.
    pub(super) fn remember(&mut self, kind: Kind, id: Uuid) {
        let list = match kind {
            Kind::Transfer => return,
            Kind::Item => &mut self.items,
            Kind::User => &mut self.users,
        };
        if list.len() < REMEMBERED {
            list.push(id);
        } else {
            list[self.random.below(REMEMBERED)] = id;
        }
    }

    /// What happens next.
    pub(super) fn next(&mut self) -> Event {
        let chance = self.random.unit();
        let id = Uuid::now_v7();
        if chance < TRANSFERS && !self.items.is_empty() && !self.users.is_empty() {
            let item = self.items[self.random.below(self.items.len())];
            let owner = self.users[self.random.below(self.users.len())];
            return Event { kind: Kind::Transfer, id, body: json!({"id": id, "item_id": item, "owner_id": owner}) };
        }
        if chance < TRANSFERS + NEW_ITEMS {
            let base_item = base_item_id(self.kind_of_item());
            return Event { kind: Kind::Item, id, body: json!({"id": id, "base_item_id": base_item}) };
        }
        Self::new_user(id)
    }

    pub(super) fn new_user(id: Uuid) -> Event {
        Event { kind: Kind::User, id, body: json!({"id": id}) }
    }

    /// Seconds until something happens, when `rate` a second happen on average and the demo has run for so long.
    pub(super) fn pause(&mut self, rate: f64, elapsed: f64) -> f64 {
        self.random.exponential() / (rate * liveliness(elapsed))
    }

    /// The k-th kind is wanted 1/k as often as the first, as wants are.
    fn kind_of_item(&mut self) -> usize {
        let weights = || (1..=KINDS.len()).map(|rank| 1.0 / f64::from(u32::try_from(rank).unwrap_or(u32::MAX)));
        let mut rest = self.random.unit() * weights().sum::<f64>();
        weights()
            .position(|weight| {
                rest -= weight;
                rest < 0.0
            })
            .unwrap_or(0)
    }
}

fn base_item_id(number: usize) -> Uuid {
    Uuid::from_u128(FIRST_KIND + number as u128)
}

/// By how much it is livelier than on average.
fn liveliness(elapsed: f64) -> f64 {
    1.0 + WAVES.iter().map(|(period, height)| height * (TAU * elapsed / period).sin()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_in_the_shares_that_were_meant() {
        let mut story = Story::new(Random::new(1));
        story.remember(Kind::Item, Uuid::from_u128(1));
        story.remember(Kind::User, Uuid::from_u128(2));
        let kinds: Vec<Kind> = (0..10_000).map(|_| story.next().kind).collect();
        for (kind, share) in [(Kind::Transfer, 6000), (Kind::Item, 3000), (Kind::User, 1000)] {
            let amount = kinds.iter().filter(|&&other| other == kind).count();
            assert!(amount.abs_diff(share) < 200, "{kind:?}: {amount}");
        }
    }

    #[test]
    fn nothing_changes_hands_before_there_are_things_and_hands() {
        let mut story = Story::new(Random::new(1));
        assert!((0..100).all(|_| story.next().kind != Kind::Transfer));
        story.remember(Kind::Item, Uuid::from_u128(1));
        assert!((0..100).all(|_| story.next().kind != Kind::Transfer));
        story.remember(Kind::User, Uuid::from_u128(2));
        assert!((0..100).any(|_| story.next().kind == Kind::Transfer));
    }

    #[test]
    fn the_rate_is_kept_on_average() {
        let mut story = Story::new(Random::new(1));
        let mut time = 0.0;
        for _ in 0..100_000 {
            time += story.pause(50.0, time);
        }
        assert!((100_000.0 / time - 50.0).abs() < 1.0, "{time}");
    }

    #[test]
    fn memory_is_bounded_and_new_things_get_into_it() {
        let mut story = Story::new(Random::new(1));
        for number in 0..3 * REMEMBERED {
            story.remember(Kind::User, Uuid::from_u128(number as u128));
        }
        assert_eq!(story.users(), REMEMBERED);
        assert!(story.users.iter().any(|user| user.as_u128() >= 2 * REMEMBERED as u128));
    }

    #[test]
    fn base_items_have_ids_as_the_standard_wants_them() {
        assert_eq!(base_item_id(0).get_version_num(), 8);
        assert_eq!(base_item_id(0).get_variant(), uuid::Variant::RFC4122);
        assert!(Story::has_base_item(base_item_id(11)) && !Story::has_base_item(base_item_id(12)));
    }
}
