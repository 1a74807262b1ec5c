//! TOML that keeps its comments: reading it so that an error names file and line, and the few edits that several
//! clients' files need.

use std::path::Path;
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Key, Table, TableLike, Value};

use crate::Error;

/// The document in `bytes`; `path` is for messages only.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<DocumentMut, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::NotText {
        path: path.to_path_buf(),
    })?;
    text.parse::<DocumentMut>().map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + bytes.iter().take(start).filter(|&&byte| byte == b'\n').count();
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        Error::InvalidToml {
            path: path.to_path_buf(),
            line,
            message,
        }
    })
}

/// The error for a key that holds something else than the client expects.
pub(crate) fn wrong_type(path: &Path, key: &str, expected: &'static str) -> Error {
    Error::WrongType {
        path: path.to_path_buf(),
        key: key.to_owned(),
        expected,
    }
}

/// Replaces a value and keeps the comment behind it.
pub(crate) fn set(table: &mut dyn TableLike, key: &str, mut value: Value) {
    match table.get_mut(key) {
        Some(Item::Value(old)) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        _ => {
            table.insert(key, Item::Value(value));
        }
    }
}

/// The blanks before a key, to write the next one alike.
pub(crate) fn indentation(key: &Key) -> Option<String> {
    let prefix = key.leaf_decor().prefix()?.as_str()?;
    let blanks = prefix.rsplit('\n').next()?;
    blanks
        .chars()
        .all(|c| c == ' ' || c == '\t')
        .then(|| blanks.to_owned())
}

/// The table `key` of a table, made in its parent's style if it is not there.
pub(crate) fn child<'t>(parent: &'t mut Item, key: &str) -> Option<&'t mut Item> {
    match parent {
        Item::Table(table) => {
            let dotted = table.is_dotted();
            Some(table.entry(key).or_insert_with(|| {
                let mut new = Table::new();
                new.set_implicit(true);
                new.set_dotted(dotted);
                Item::Table(new)
            }))
        }
        Item::Value(Value::InlineTable(table)) => {
            if !table.contains_key(key) {
                table.insert(key, Value::InlineTable(InlineTable::new()));
            }
            parent.get_mut(key)
        }
        _ => None,
    }
}

/// An entry in a list of tables, and how to know one that was written before.
pub(crate) struct Entry<'f> {
    /// Stands above the entry when it is new and has a header of its own.
    pub(crate) comment: String,
    /// Whether a table is this entry.
    pub(crate) is_it: &'f dyn Fn(&dyn TableLike) -> bool,
    /// Gives a table the entry's values; leaves what is right already, and all other keys.
    pub(crate) fill: &'f dyn Fn(&mut dyn TableLike),
}

impl Entry<'_> {
    /// Makes this entry the first of the list `key` in `table`, which is written as `[[…]]` or as an array.
    /// `name` is the list's name for messages.
    pub(crate) fn put_first(
        &self,
        path: &Path,
        name: &str,
        table: &mut dyn TableLike,
        key: &str,
    ) -> Result<(), Error> {
        match table.get_mut(key) {
            Some(Item::ArrayOfTables(tables)) => self.first_of_tables(tables),
            Some(Item::Value(Value::Array(array))) => self.first_of_array(path, name, array)?,
            Some(_) => return Err(wrong_type(path, name, "a list of tables")),
            None => {
                let mut tables = ArrayOfTables::new();
                self.first_of_tables(&mut tables);
                table.insert(key, Item::ArrayOfTables(tables));
            }
        }
        Ok(())
    }

    fn first_of_tables(&self, tables: &mut ArrayOfTables) {
        let found = tables.iter().position(|table| (self.is_it)(table));
        if found == Some(0) {
            if let Some(table) = tables.get_mut(0) {
                (self.fill)(table);
            }
            return;
        }
        let mut all: Vec<Table> = std::mem::take(tables).into_iter().collect();
        let mut ours = match found {
            Some(index) => all.remove(index),
            None => {
                let mut table = Table::new();
                table.decor_mut().set_prefix(format!("\n{}", self.comment));
                table
            }
        };
        (self.fill)(&mut ours);
        if let Some(first) = all.first() {
            // Equal places stay in this order.
            ours.set_position(first.position());
        }
        *tables = std::iter::once(ours).chain(all).collect();
    }

    fn first_of_array(&self, path: &Path, name: &str, array: &mut Array) -> Result<(), Error> {
        if !array.iter().all(Value::is_inline_table) {
            return Err(wrong_type(path, name, "a list of tables"));
        }
        let is_it = |value: &Value| value.as_inline_table().is_some_and(|table| (self.is_it)(table));
        let found = array.iter().position(is_it);
        if found == Some(0) {
            if let Some(table) = array.get_mut(0).and_then(Value::as_inline_table_mut) {
                (self.fill)(table);
            }
            return Ok(());
        }
        let removed = found.map(|index| array.remove(index));
        let mut ours = match removed {
            Some(Value::InlineTable(table)) => table,
            _ => InlineTable::new(),
        };
        (self.fill)(&mut ours);
        if let Some(next) = array.get_mut(0)
            && next.decor().prefix().and_then(|prefix| prefix.as_str()) == Some("")
        {
            next.decor_mut().set_prefix(" ");
        }
        array.insert(0, ours);
        Ok(())
    }
}
