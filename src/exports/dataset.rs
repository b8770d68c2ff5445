//! What can be exported: the columns of each dataset, and the query that reads them.

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Order;

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Dataset {
    /// `id, description, created_at`
    BaseItems,
    /// `id, created_at`
    Users,
    /// `id, base_item_id, created_at`
    Items,
    /// `id, item_id, owner_id, timestamp`
    Transfers,
    /// Who owns each item that was ever transferred: `item_id, base_item_id, owner_id, since, transfer_id`
    Ownership,
    /// The counts of every non-empty bucket: `metric, time, count`
    Statistics,
}

/// A column of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// As in the first line of a CSV file.
    pub name: &'static str,
    /// What is in it.
    pub kind: ColumnKind,
}

/// What is in a column. No value is ever missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// A UUID.
    Uuid,
    /// A moment, to the microsecond.
    Timestamp,
    /// Any text.
    Text,
    /// A 64-bit integer.
    Integer,
}

/// Something that narrows an export down, and that not every dataset has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// From that moment on.
    From,
    /// Before that moment.
    To,
    /// Of that base item.
    BaseItem,
    /// In buckets of that width.
    Resolution,
    /// By the clocks of that time zone.
    Timezone,
}

impl Filter {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::From, Self::To, Self::BaseItem, Self::Resolution, Self::Timezone];

    /// The field of a request that it is in.
    pub const fn field(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::To => "to",
            Self::BaseItem => "base_item_id",
            Self::Resolution => "resolution",
            Self::Timezone => "timezone",
        }
    }
}

const fn column(name: &'static str, kind: ColumnKind) -> Column {
    Column { name, kind }
}

impl Dataset {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::BaseItems, Self::Users, Self::Items, Self::Transfers, Self::Ownership, Self::Statistics];

    /// Its name in requests, in the database and in file names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BaseItems => "base-items",
            Self::Users => "users",
            Self::Items => "items",
            Self::Transfers => "transfers",
            Self::Ownership => "ownership",
            Self::Statistics => "statistics",
        }
    }

    /// Whether it can be narrowed down like that.
    pub const fn has(self, filter: Filter) -> bool {
        match (self, filter) {
            (Self::Statistics, _) => true,
            (_, Filter::Resolution | Filter::Timezone) => false,
            // Who owned what at a moment: there is one moment, which is where the range ends.
            (Self::Ownership, Filter::From) => false,
            (Self::BaseItems | Self::Users, Filter::BaseItem) => false,
            (_, Filter::From | Filter::To | Filter::BaseItem) => true,
        }
    }

    /// The columns of its files, in their order.
    pub const fn columns(self) -> &'static [Column] {
        use ColumnKind::{Integer, Text, Timestamp, Uuid};
        const ID: Column = column("id", Uuid);
        const BASE_ITEM_ID: Column = column("base_item_id", Uuid);
        const ITEM_ID: Column = column("item_id", Uuid);
        const OWNER_ID: Column = column("owner_id", Uuid);
        const CREATED_AT: Column = column("created_at", Timestamp);
        const DESCRIPTION: Column = column("description", Text);
        const TIMESTAMP: Column = column("timestamp", Timestamp);
        const SINCE: Column = column("since", Timestamp);
        const TRANSFER_ID: Column = column("transfer_id", Uuid);
        const METRIC: Column = column("metric", Text);
        const TIME: Column = column("time", Timestamp);
        const COUNT: Column = column("count", Integer);
        match self {
            Self::BaseItems => &[ID, DESCRIPTION, CREATED_AT],
            Self::Users => &[ID, CREATED_AT],
            Self::Items => &[ID, BASE_ITEM_ID, CREATED_AT],
            Self::Transfers => &[ID, ITEM_ID, OWNER_ID, TIMESTAMP],
            Self::Ownership => &[ITEM_ID, BASE_ITEM_ID, OWNER_ID, SINCE, TRANSFER_ID],
            Self::Statistics => &[METRIC, TIME, COUNT],
        }
    }
}

impl Order {
    /// The query that reads it: `copy` takes no parameters, so all values are literals. Ids and moments have nothing to
    /// escape; names of time zones are known ones.
    pub(super) fn query(&self) -> String {
        let mut conditions = Conditions::default();
        let select = match self.dataset {
            Dataset::BaseItems => {
                conditions.range("created_at", self);
                "select id, description, created_at from public.base_items"
            }
            Dataset::Users => {
                conditions.range("created_at", self);
                "select id, created_at from public.users"
            }
            Dataset::Items => {
                conditions.range("created_at", self);
                conditions.base_item("base_item_id", self);
                "select id, base_item_id, created_at from public.items"
            }
            Dataset::Transfers => {
                conditions.range("t.timestamp", self);
                conditions.base_item("i.base_item_id", self);
                if self.base_item_id.is_some() {
                    "select t.id, t.item_id, t.owner_id, t.timestamp
                    from public.transfers t join public.items i on i.id = t.item_id"
                } else {
                    "select t.id, t.item_id, t.owner_id, t.timestamp from public.transfers t"
                }
            }
            Dataset::Ownership => {
                conditions.range("t.timestamp", self);
                conditions.base_item("i.base_item_id", self);
                let conditions = conditions.0;
                return format!(
                    "select distinct on (t.item_id) t.item_id, i.base_item_id, t.owner_id, t.timestamp, t.id
                    from public.transfers t join public.items i on i.id = t.item_id{conditions}
                    order by t.item_id, t.timestamp desc, t.id desc"
                );
            }
            Dataset::Statistics => return self.statistics(),
        };
        format!("{select}{}", conditions.0)
    }

    fn statistics(&self) -> String {
        let metrics = if self.base_item_id.is_some() {
            "'item-creation', 'transfers'"
        } else {
            "'item-creation', 'transfers', 'user-creation'"
        };
        let resolution = self.resolution.map_or("day", |resolution| resolution.name());
        let from = self.from.map_or_else(|| "null".to_owned(), moment);
        // Clocks differ: the ledger takes what is five minutes ahead.
        let to = self.to.map_or_else(|| "now() + interval '6 minutes'".to_owned(), moment);
        let zone = self.timezone.map_or("UTC", |zone| zone.name());
        let base_item = self.base_item_id.map_or_else(|| "null".to_owned(), id);
        format!(
            "select metric, s.bucket, s.count from unnest(array[{metrics}]) as metric
            cross join lateral reporting.series(metric, '{resolution}', {from}, {to}, '{zone}', {base_item}, false) s"
        )
    }
}

/// A `where` clause.
#[derive(Default)]
struct Conditions(String);

impl Conditions {
    fn add(&mut self, column: &str, operator: &str, value: &str) {
        let word = if self.0.is_empty() { "where" } else { "and" };
        let _ = write!(self.0, " {word} {column} {operator} {value}");
    }

    fn range(&mut self, column: &str, order: &Order) {
        if let Some(from) = order.from {
            self.add(column, ">=", &moment(from));
        }
        if let Some(to) = order.to {
            self.add(column, "<", &moment(to));
        }
    }

    fn base_item(&mut self, column: &str, order: &Order) {
        if let Some(base_item) = order.base_item_id {
            self.add(column, "=", &id(base_item));
        }
    }
}

fn moment(moment: DateTime<Utc>) -> String {
    format!("timestamptz '{}'", moment.to_rfc3339_opts(SecondsFormat::Micros, true))
}

fn id(id: Uuid) -> String {
    format!("uuid '{id}'")
}
