//! Results for people (tables on standard output) or for programs (one JSON document).

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::cli::args::Output;

/// Prints one result in the wanted form.
///
/// # Errors
/// Standard output is closed, or the value has no JSON form.
pub fn print<T: Serialize>(output: Output, value: &T, human: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    use std::io::Write as _;
    let text = match output {
        Output::Json => serde_json::to_string_pretty(value)?,
        Output::Table => human(value),
    };
    let mut stdout = std::io::stdout().lock();
    let text = text.trim_end_matches('\n');
    if !text.is_empty() {
        writeln!(stdout, "{text}")?;
    }
    stdout.flush()?;
    Ok(())
}

/// A plain table: a header, columns of which those named in `right` are right-aligned.
#[must_use]
pub fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// A name of the namespace as text: UTF-8 as it is, other bytes and control characters as `\xNN`.
#[must_use]
pub fn show_name(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    text.push_str(&format!("\\x{byte:02x}"));
                }
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The bytes that [`show_name`] showed; `None` for a `\` that no `\xNN` is.
#[must_use]
pub fn parse_name(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let code = rest.get(at + 1..at + 4)?.strip_prefix('x')?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        rest = &rest[at + 4..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_survives_being_shown() {
        for name in [&b"plain"[..], "zürich".as_bytes(), b"\xff\xfe", b"a\nb\x1b[31m", b"back\\slash", b""] {
            let shown = show_name(name);
            assert!(!shown.contains(char::is_control), "{shown}");
            assert_eq!(parse_name(&shown).as_deref(), Some(name), "{shown}");
        }
        assert_eq!(parse_name("\\q"), None);
        assert_eq!(parse_name("\\x4"), None);
    }
}
