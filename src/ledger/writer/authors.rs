//! In whose names the rows of a statement are written: `access.audit`, by the same statement.

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;

use super::{Record, Waiting};
use crate::audit::{self, Author};

/// The different authors of some rows, and which row is of which.
#[derive(Debug, Default)]
pub(super) struct Authors {
    /// Of each row the number of its author, counted from 1. None for a row in nobody's name, and for one whose id an
    /// earlier one has: that is not the one that is inserted.
    numbers: Vec<Option<i64>>,
    ids: Vec<String>,
    names: Vec<String>,
    through: Vec<&'static str>,
}

impl Authors {
    /// Those of rows in the order of their ids; nothing if all are in nobody's name.
    pub(super) fn of<R: Record>(batch: &[Waiting<R>]) -> Option<Self> {
        let mut authors = Self::default();
        let mut known: Vec<&Author> = Vec::new();
        let mut before = None;
        for waiting in batch {
            let is_first = before.replace(waiting.id) != Some(waiting.id);
            let author = waiting.author.as_ref().filter(|_| is_first);
            let number = author.map(|author| {
                let found = known.iter().position(|known| *known == author);
                found.unwrap_or_else(|| {
                    known.push(author);
                    known.len() - 1
                })
            });
            authors.numbers.push(number.and_then(|number| i64::try_from(number + 1).ok()));
        }
        for author in &known {
            authors.ids.push(author.id.to_string());
            authors.names.push(author.name.to_string());
            authors.through.push(author.through);
        }
        (!known.is_empty()).then_some(authors)
    }

    /// Binds them after the columns of the rows, in the order of [`insert_and_note`].
    pub(super) fn bind<'q, R>(
        self,
        query: QueryAs<'q, Postgres, R, PgArguments>,
    ) -> QueryAs<'q, Postgres, R, PgArguments> {
        query.bind(self.numbers).bind(self.ids).bind(self.names).bind(self.through)
    }
}

/// [`Record::INSERT`], which also notes who wrote what.
pub(super) fn insert_and_note<R: Record>() -> String {
    let [number, id, name, through] = std::array::from_fn(|n| R::COLUMNS + 1 + n);
    format!(
        "with written as ({insert}), noted as (
            insert into access.audit (author, author_name, through, action, ids)
            select author.id, author.name, author.through, '{action}', array_agg(written.id order by written.id)
            from written
            join unnest($1::uuid[], ${number}::bigint[]) as sent (id, author) on sent.id = written.id
            join unnest(${id}::text[], ${name}::text[], ${through}::text[])
                with ordinality as author (id, name, through, number) on author.number = sent.author
            group by author.number, author.id, author.name, author.through
        )
        select * from written",
        insert = R::INSERT,
        action = audit::action(R::TABLE),
    )
}
