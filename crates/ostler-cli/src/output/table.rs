//! The live table: one line for each worker, cut to the terminal's size.

use std::time::SystemTime;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Row as Cells, Table};
use ostler_core::ids::WorkerId;

use super::board::{Board, Row};
use super::text::{Line, Tone};

/// Lines of the frame that are no workers: the header, the summary line, and one for the cursor.
const FURNITURE: usize = 3;

/// The smallest terminal that shows a table; in a smaller one its lines would wrap, and the cursor
/// would go astray.
const SMALLEST: (u16, u16) = (20, 4);

const COLUMNS: [&str; 7] = ["worker", "state", "pid", "port", "restarts", "age", "last failure"];

/// Where there is no room for all columns, the last ones in this list are left out first.
const BY_WEIGHT: [usize; COLUMNS.len()] = [0, 1, 6, 4, 2, 3, 5];

/// A blank on each side of a cell.
const PADDING: usize = 2;

/// The table as lines, none longer than `width` and not more than `height` of them; none in a
/// terminal that is too small.
pub(crate) fn render(board: &Board, now: SystemTime, width: u16, height: u16) -> Vec<Line> {
    if width < SMALLEST.0 || height < SMALLEST.1 {
        return Vec::new();
    }
    let room = usize::from(height).saturating_sub(FURNITURE).max(1);
    let shown = chosen(board, room);
    let texts: Vec<_> = shown.iter().map(|(worker, row)| cells(worker, row, now)).collect();
    let columns = columns(&texts, width);
    let pick = |texts: &[String; COLUMNS.len()]| one_line(columns.iter().map(|&at| cell(at, &texts[at])));
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width);
    table.set_header(one_line(columns.iter().map(|&at| Cell::new(COLUMNS[at]))));
    for texts in &texts {
        table.add_row(pick(texts));
    }
    let tones = [Tone::Title].into_iter().chain(shown.iter().map(|(_, row)| row.tone()));
    let texts = table.lines().map(|line| line.trim_end().to_owned());
    let mut lines: Vec<Line> = tones.zip(texts).map(|(tone, text)| Line::new(tone, text)).collect();
    lines.push(Line::plain(cut(&footer(board, shown.len()), width)));
    lines
}

fn one_line(cells: impl IntoIterator<Item = Cell>) -> Cells {
    let mut line = Cells::from(cells);
    line.max_height(1);
    line
}

fn cell(column: usize, text: &str) -> Cell {
    let alignment = match COLUMNS[column] {
        "pid" | "port" | "restarts" | "age" => CellAlignment::Right,
        _ => CellAlignment::Left,
    };
    Cell::new(text).set_alignment(alignment)
}

/// The columns that fit, from left to right; the first two are always there.
fn columns(rows: &[[String; COLUMNS.len()]], width: u16) -> Vec<usize> {
    let mut left = usize::from(width);
    let mut columns = Vec::new();
    for at in BY_WEIGHT {
        let texts = rows.iter().map(|row| row[at].chars().count());
        let needed = texts.max().unwrap_or(0).max(COLUMNS[at].len()) + PADDING;
        if needed > left && columns.len() >= 2 {
            break;
        }
        left = left.saturating_sub(needed);
        columns.push(at);
    }
    columns.sort_unstable();
    columns
}

/// As many workers as there is room for: first those that need attention.
fn chosen(board: &Board, room: usize) -> Vec<(&WorkerId, &Row)> {
    let mut rows: Vec<_> = board.rows().collect();
    if rows.len() > room {
        rows.sort_by_key(|(_, row)| row.is_well());
        rows.truncate(room);
    }
    rows
}

fn cells(worker: &WorkerId, row: &Row, now: SystemTime) -> [String; COLUMNS.len()] {
    [
        worker.to_string(),
        row.state.to_string(),
        row.pid.map_or_else(String::new, |pid| pid.to_string()),
        row.ports.clone(),
        row.restarts.to_string(),
        row.since.map_or_else(String::new, |since| age(since, now)),
        row.last_failure.map_or("", |reason| reason.name()).to_owned(),
    ]
}

/// How long ago, in the two largest units. A clock that was set back makes it nothing.
fn age(since: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(since).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn footer(board: &Board, shown: usize) -> String {
    let all = board.rows().len();
    let ready = board.rows().filter(|(_, row)| row.state == "ready").count();
    let hidden = all - shown;
    let hint = if hidden > 0 {
        format!(", {hidden} not shown")
    } else {
        String::new()
    };
    let degraded = board.tally().degraded.iter().map(String::as_str).collect::<Vec<_>>();
    let hint = match degraded.is_empty() {
        true => hint,
        false => format!("{hint}, degraded: {}", degraded.join(", ")),
    };
    format!("{ready} of {all} ready{hint}; Ctrl-C stops, a second one kills")
}

fn cut(text: &str, width: u16) -> String {
    text.chars().take(usize::from(width)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ostler_core::failure::Reason;
    use ostler_core::ids::{Incarnation, RunId};
    use ostler_telemetry::{Event, EventKind, Facts};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn event(index: u32, kind: EventKind, facts: Facts) -> Event {
        let mut event = Event::new(1, at(100), kind, "demo", RunId::from_u128(1));
        event.worker = Some(WorkerId::new("web", index));
        event.incarnation = Some(Incarnation::FIRST);
        event.facts = facts;
        event
    }

    fn board(workers: u32) -> Board {
        let mut board = Board::default();
        for index in 0..workers {
            let facts = Facts::default().with_pid(1000 + index).with_port(7000);
            board.apply(&event(index, EventKind::WorkerReady, facts));
        }
        board
    }

    fn texts(board: &Board, now: SystemTime, width: u16, height: u16) -> Vec<String> {
        let lines = render(board, now, width, height);
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn a_terminal_that_is_too_small_gets_no_table() {
        for (width, height) in [(0, 0), (1, 1), (3, 24), (80, 3)] {
            assert_eq!(render(&board(2), at(100), width, height), []);
        }
    }

    #[test]
    fn one_line_for_each_worker() {
        let mut board = board(2);
        board.apply(&event(1, EventKind::WorkerRestarting, Facts::default()));
        let failed = Facts::default().with_reason(Reason::Killed);
        board.apply(&event(1, EventKind::WorkerFailed, failed));
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        let lines = texts(&board, at(175), 100, 24);
        let lines: Vec<_> = lines.iter().map(|line| words(line)).collect();
        assert_eq!(
            lines,
            [
                "worker state pid port restarts age last failure",
                "web/0 ready 1000 7000 0 1m 15s",
                "web/1 failed 1001 7000 1 1m 15s killed",
                "1 of 2 ready; Ctrl-C stops, a second one kills",
            ]
        );
    }

    #[test]
    fn it_fits_any_terminal_and_says_what_it_hides() {
        let mut board = board(50);
        board.apply(&event(49, EventKind::WorkerFailed, Facts::default()));
        for (width, height) in [(80, 24), (40, 10), (20, 4)] {
            let lines = texts(&board, at(100), width, height);
            assert!(
                lines.len() < usize::from(height),
                "{width}x{height}: {} lines",
                lines.len()
            );
            assert!(
                lines.iter().all(|line| line.chars().count() <= usize::from(width)),
                "{lines:#?}"
            );
        }
        let narrow = texts(&board, at(100), 20, 13);
        assert_eq!(
            narrow[0].trim(),
            "worker  state",
            "whole columns, rather than a bit of each: {narrow:#?}"
        );
        assert!(narrow[1].contains("web/49  failed"), "{narrow:#?}");
        let lines = texts(&board, at(100), 80, 13);
        assert!(
            lines[1].contains("web/49"),
            "a failed worker is shown first: {lines:#?}"
        );
        assert!(lines.last().unwrap().contains("40 not shown"), "{lines:#?}");
    }
}
