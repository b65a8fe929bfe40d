//! Common style of all tables: a line under the header, no other borders.

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

/// An empty table with these columns, as wide as the terminal at most.
pub fn table<T: Into<String>>(header: impl IntoIterator<Item = T>) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.into_iter().map(|name| Cell::new(name.into())));
    table
}

/// The same, which is at most `width` columns wide where it does not go to a terminal.
pub fn within<T: Into<String>>(width: u16, header: impl IntoIterator<Item = T>) -> Table {
    let mut table = table(header);
    if !table.is_tty() {
        table.set_width(width);
    }
    table
}

/// An empty table without a header.
pub fn list() -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// Text as part of a line or a cell of Markdown, where it neither ends the cell nor starts anything else.
pub fn cell(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('|', "\\|")
        .replace('<', "&lt;")
        .replace(['\n', '\r'], " ")
}

/// A cell with a number in it.
pub fn number(value: impl ToString) -> Cell {
    Cell::new(value.to_string()).set_alignment(CellAlignment::Right)
}
