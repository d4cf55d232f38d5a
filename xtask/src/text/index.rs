//! The index of decisions, ADR/README.md: one row for each record, from its first line.

use crate::steps::{Outcome, root};

pub(super) const FILE: &str = "ADR/README.md";
const BEGIN: &str = "<!-- begin index: cargo xtask text --fix -->\n";
const END: &str = "<!-- end index -->";

/// The page with an index of what the directory holds.
pub(super) fn rendered(page: &str) -> Outcome<String> {
    with_rows(page, &rows()?).ok_or_else(|| format!("{FILE}: the markers of the index are missing"))
}

fn with_rows(page: &str, rows: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}| | decision |\n|---|---|\n{rows}{END}{after}"))
}

fn rows() -> Outcome<String> {
    let folder = root().join("ADR");
    let entries = std::fs::read_dir(&folder).map_err(|error| format!("ADR: {error}"))?;
    let mut files: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(|first: char| first.is_ascii_digit()))
        .collect();
    files.sort();
    let row = |file: &String| {
        let text = std::fs::read_to_string(folder.join(file)).map_err(|error| format!("ADR/{file}: {error}"))?;
        row(file, &text).ok_or_else(|| format!("ADR/{file}: its first line is not \"# NNNN: The decision\""))
    };
    files.iter().map(row).collect()
}

fn row(file: &str, text: &str) -> Option<String> {
    let (number, title) = text.lines().next()?.strip_prefix("# ")?.split_once(": ")?;
    file.starts_with(number)
        .then(|| format!("| [{number}]({file}) | {title} |\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_number_and_title_of_the_record() {
        let expected = "| [0007](0007-rocksdb.md) | RocksDB by default |\n";
        assert_eq!(
            row("0007-rocksdb.md", "# 0007: RocksDB by default\n").as_deref(),
            Some(expected)
        );
        assert_eq!(row("0007-rocksdb.md", "# 0008: Another\n"), None);
        assert_eq!(row("0007-rocksdb.md", "No heading\n"), None);
    }

    #[test]
    fn the_rows_are_replaced_and_nothing_else() {
        let page = format!("# Decisions\n{BEGIN}old\n{END}\nmore\n");
        let expected = format!("# Decisions\n{BEGIN}| | decision |\n|---|---|\nnew\n{END}\nmore\n");
        assert_eq!(with_rows(&page, "new\n"), Some(expected));
        assert_eq!(with_rows("no markers", ""), None);
    }
}
