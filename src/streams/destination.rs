//! Where records go besides being stored: into the ledger, as base items, users, items and transfers.
//!
//! Ids are made of the stream and of what identifies things in the source (UUID version 5, RFC 9562), so that a record that
//! is fetched a hundred times, by whichever worker, is in the ledger once.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::field::Field;
use crate::ledger::{
    BaseItem, Item, LedgerError, NewBaseItem, NewItem, NewTransfer, NewUser, Record, Transfer, User, Writer,
};

/// So many rows of a page wait to be written at the same time: several statements' worth, and far fewer than may wait.
const MOST_WAITING: usize = 400;

/// Where records go besides being stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Destination {
    /// Into the ledger.
    Ledger(LedgerMapping),
}

/// What of a record becomes what in the ledger. Fields are those of the transformed record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LedgerMapping {
    /// The kind of thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_item: Option<BaseItemMapping>,
    /// The single piece; needs `base_item`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemMapping>,
    /// Who has it. A record in which this is missing has no user, and no transfer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserMapping>,
    /// Since when; needs `item` and `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer: Option<TransferMapping>,
}

/// A base item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BaseItemMapping {
    /// What identifies it.
    pub key: Field,
    /// What it is, in words; the key, unless said otherwise. The first description stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<Field>,
}

/// An item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemMapping {
    /// What identifies it.
    pub key: Field,
    /// When it came into being (RFC 3339); when it was first fetched, unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Field>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserMapping {
    /// What identifies them.
    pub key: Field,
}

/// A transfer. The same item, user and moment make the same transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferMapping {
    /// Since when the user has the item (RFC 3339).
    pub timestamp: Field,
}

impl Destination {
    /// Checks that what is mapped can be; names the field.
    pub fn validate(&self) -> Result<(), (&'static str, &'static str)> {
        let Self::Ledger(LedgerMapping { base_item, item, user, transfer }) = self;
        if item.is_some() && base_item.is_none() {
            return Err(("destination.ledger.base_item", "an item is of a base item"));
        }
        if transfer.is_some() && item.is_none() {
            return Err(("destination.ledger.item", "a transfer is of an item"));
        }
        if transfer.is_some() && user.is_none() {
            return Err(("destination.ledger.user", "a transfer is to a user"));
        }
        if base_item.is_none() && user.is_none() {
            return Err(("destination.ledger", "must map base_item or user"));
        }
        Ok(())
    }
}

/// What a record becomes.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Rows {
    #[serde(skip_serializing_if = "Option::is_none")]
    base_item: Option<NewBaseItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<NewItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<NewUser>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transfer: Option<NewTransfer>,
}

impl LedgerMapping {
    /// What a record of a stream becomes; or why it cannot.
    pub(super) fn rows(&self, stream: Uuid, record: &Value) -> Result<Rows, String> {
        let id_of = |kind: &str, key: &str| Uuid::new_v5(&stream, format!("{kind}\0{key}").as_bytes());
        let text = |field: &Field| field.text_of(record).filter(|text| !text.is_empty());
        let needed =
            |field: &Field| text(field).ok_or_else(|| format!("{field}: the record has no text or number there"));
        let mut rows = Rows::default();
        if let Some(BaseItemMapping { key, description }) = &self.base_item {
            let key = needed(key)?;
            let base_item_id = id_of("base item", &key);
            let description = description.as_ref().and_then(text).unwrap_or(key);
            rows.base_item = Some(NewBaseItem { id: Some(base_item_id), description, created_at: None });
            if let Some(ItemMapping { key, created_at }) = &self.item {
                let created_at = created_at.as_ref().map(|field| moment(field, record)).transpose()?.flatten();
                let item_id = id_of("item", &needed(key)?);
                rows.item = Some(NewItem { id: Some(item_id), base_item_id, created_at });
            }
        }
        let Some(user) = self.user.as_ref().and_then(|user| text(&user.key)) else { return Ok(rows) };
        let user_id = id_of("user", &user);
        rows.user = Some(NewUser { id: Some(user_id), created_at: None });
        if let (Some(TransferMapping { timestamp }), Some(NewItem { id: Some(item_id), .. })) =
            (&self.transfer, &rows.item)
        {
            let Some(timestamp) = moment(timestamp, record)? else {
                return Err(format!("{timestamp}: the record does not say since when"));
            };
            let transfer_id = id_of("transfer", &format!("{item_id}\0{user_id}\0{}", timestamp.timestamp_micros()));
            rows.transfer = Some(NewTransfer {
                id: Some(transfer_id),
                item_id: *item_id,
                owner_id: user_id,
                timestamp: Some(timestamp),
            });
        }
        Ok(rows)
    }
}

/// A moment as the ledger keeps it: to the microsecond.
fn moment(field: &Field, record: &Value) -> Result<Option<DateTime<Utc>>, String> {
    let Some(value) = field.of(record) else { return Ok(None) };
    let moment = value.as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok());
    let moment = moment.and_then(|moment| DateTime::from_timestamp_micros(moment.timestamp_micros()));
    moment.map(Some).ok_or_else(|| format!("{field}: {value} is no moment (RFC 3339); a step `cast` may make it one"))
}

/// Writes what records become, kind after kind. For each in their order: nothing, or why the ledger does not take it. Fails if
/// the ledger cannot be written now; what was written then is written again without effect.
pub(super) async fn write(writer: &Writer, rows: &[Rows]) -> Result<Vec<Option<String>>, LedgerError> {
    let mut refusals: Vec<Option<String>> = vec![None; rows.len()];
    // Neither a base item nor a user changes: the first that was heard of them stays, and once in a page is enough.
    create::<BaseItem>(writer, rows, |rows| rows.base_item.clone().map(|new| (new.id, new)), true, &mut refusals)
        .await?;
    create::<User>(writer, rows, |rows| rows.user.clone().map(|new| (new.id, new)), true, &mut refusals).await?;
    create::<Item>(writer, rows, |rows| rows.item.clone().map(|new| (new.id, new)), false, &mut refusals).await?;
    create::<Transfer>(writer, rows, |rows| rows.transfer.clone().map(|new| (new.id, new)), false, &mut refusals)
        .await?;
    Ok(refusals)
}

async fn create<R: Record>(
    writer: &Writer,
    rows: &[Rows],
    new: impl Fn(&Rows) -> Option<(Option<Uuid>, R::New)>,
    is_constant: bool,
    refusals: &mut [Option<String>],
) -> Result<(), LedgerError> {
    let mut seen = HashSet::new();
    let wanted: Vec<_> = rows
        .iter()
        .enumerate()
        .filter(|(position, _)| refusals[*position].is_none())
        .filter_map(|(position, rows)| new(rows).map(|(id, new)| (position, id, new)))
        .filter(|(_, id, _)| !is_constant || seen.insert(*id))
        .collect();
    let outcomes = stream::iter(wanted)
        .map(|(position, _, new)| async move { (position, writer.create::<R>(new).await) })
        .buffered(MOST_WAITING)
        .collect::<Vec<_>>()
        .await;
    for (position, outcome) in outcomes {
        match outcome {
            Ok(_) => {}
            Err(LedgerError::Conflict { .. }) if is_constant => {}
            Err(
                error @ (LedgerError::Conflict { .. } | LedgerError::Invalid { .. } | LedgerError::NotFound { .. }),
            ) => {
                refusals[position] = Some(format!("The ledger does not take it: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mapping() -> LedgerMapping {
        serde_json::from_value(json!({
            "base_item": {"key": "model", "description": "name"}, "item": {"key": "serial", "created_at": "made"},
            "user": {"key": "owner"}, "transfer": {"timestamp": "since"},
        }))
        .expect("a mapping")
    }

    #[test]
    fn the_same_record_becomes_the_same_rows() {
        let record = json!({
            "model": 7, "name": "Bike", "serial": "A-1", "made": "2026-01-01T00:00:00.0000009Z", "owner": "a@example.com",
            "since": "2026-02-01T01:00:00+01:00",
        });
        let stream = Uuid::from_u128(1);
        let rows = mapping().rows(stream, &record).expect("rows");
        let again = mapping().rows(stream, &record).expect("rows");
        assert_eq!(format!("{rows:?}"), format!("{again:?}"));
        let transfer = rows.transfer.expect("a transfer");
        let (item, user, base_item) = (rows.item.expect("it"), rows.user.expect("one"), rows.base_item.expect("it"));
        assert_eq!((Some(transfer.item_id), Some(transfer.owner_id)), (item.id, user.id));
        assert_eq!((base_item.id, base_item.description.as_str()), (Some(item.base_item_id), "Bike"));
        assert_eq!(
            item.created_at.expect("a moment").timestamp_micros(),
            1_767_225_600_000_000,
            "as the ledger keeps it"
        );
        let ids = [base_item.id, item.id, user.id, transfer.id];
        assert!(ids.iter().flatten().all(|id| id.get_version_num() == 5));
        let other = mapping().rows(Uuid::from_u128(2), &record).expect("rows");
        assert_ne!(other.item.expect("it").id, item.id, "another stream, another source");
    }

    #[test]
    fn what_has_no_owner_is_transferred_to_nobody() {
        let rows = mapping().rows(Uuid::nil(), &json!({"model": "m", "serial": 1, "owner": null})).expect("rows");
        assert!(rows.item.is_some() && rows.user.is_none() && rows.transfer.is_none());
        assert_eq!(rows.base_item.expect("it").description, "m", "the key, for want of better words");
    }

    #[test]
    fn what_is_missing_or_no_moment_is_said() {
        for (record, reason) in [
            (json!({"serial": 1}), "/model: the record has no text or number there"),
            (json!({"model": 1, "serial": []}), "/serial: the record has no text or number there"),
            (json!({"model": 1, "serial": 1, "owner": 1}), "/since: the record does not say since when"),
            (
                json!({"model": 1, "serial": 1, "owner": 1, "since": "1.2.2026"}),
                "/since: \"1.2.2026\" is no moment (RFC 3339); a step `cast` may make it one",
            ),
        ] {
            assert_eq!(mapping().rows(Uuid::nil(), &record).expect_err("it does not fit"), reason);
        }
    }

    #[test]
    fn what_is_mapped_needs_what_it_refers_to() {
        for (mapping, expected) in [
            (json!({"base_item": {"key": "a"}}), Ok(())),
            (json!({"user": {"key": "a"}}), Ok(())),
            (json!({}), Err("destination.ledger")),
            (json!({"item": {"key": "a"}}), Err("destination.ledger.base_item")),
            (json!({"base_item": {"key": "a"}, "transfer": {"timestamp": "t"}}), Err("destination.ledger.item")),
            (
                json!({"base_item": {"key": "a"}, "item": {"key": "b"}, "transfer": {"timestamp": "t"}}),
                Err("destination.ledger.user"),
            ),
        ] {
            let destination: Destination = serde_json::from_value(json!({"ledger": mapping})).expect("a destination");
            assert_eq!(destination.validate().map_err(|(field, _)| field), expected, "{mapping}");
        }
    }
}
