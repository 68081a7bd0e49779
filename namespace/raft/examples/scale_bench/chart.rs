//! All costs on one chart, each beside what it is at the smallest size: a flat line is a cost that does not grow with the files.

use std::collections::BTreeMap;
use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 520.0;
/// Around the plot: left, right (the names), top, bottom.
const MARGINS: [f64; 4] = [60.0, 320.0, 50.0, 50.0];
/// The chart goes from a tenth to so many times the first cost.
const TIMES: f64 = 100.0;

/// Rows of the table that are drawn, what a line is called, its colour, and whether the row is a rate (of which the cost is the inverse).
const LINES: [(&str, &str, &str, bool); 8] = [
    ("load, files a CPU second", "CPU to load a file", "#1f77b4", true),
    ("disk at rest, B a file", "disk, a file", "#2ca02c", false),
    ("most memory of the load, MiB", "memory, in all", "#9467bd", false),
    ("restart after SIGKILL, s", "restart after SIGKILL, in all", "#d62728", false),
    ("stats a CPU second, 1,000 files", "CPU of a stat among 1,000 files", "#8c564b", true),
    ("stats a CPU second, any file", "CPU of a stat of any file", "#e377c2", true),
    ("list of 1,000, p99 ms", "listing 1,000 entries, p99", "#ff7f0e", false),
    ("the same, records a CPU second", "CPU to send a new node a record", "#17becf", true),
];

/// The chart as SVG; `counts` ascend, and each column has all rows.
pub(crate) fn svg(counts: &[u64], columns: &[BTreeMap<String, f64>]) -> String {
    let [left, right, top, bottom] = MARGINS;
    let (first, last) = (counts[0] as f64, counts[counts.len() - 1] as f64);
    let x = |count: f64| left + (count / first).log10() / (last / first).log10().max(0.01) * (WIDTH - left - right);
    let y = |times: f64| top + (1.0 - ((times * 10.0).log10() / (TIMES * 10.0).log10())) * (HEIGHT - top - bottom);
    let mut out = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="{left}" y="24" font-size="16">What a replica costs by its files, as times what it costs with {first}</text>
"##
    );
    for times in [0.1, 1.0, 10.0, TIMES] {
        let (y, width) = (y(times), if times == 1.0 { 1.5 } else { 0.5 });
        let end = WIDTH - right;
        writeln!(
            out,
            r##"<path d="M{left} {y:.1}H{end}" stroke="#888888" stroke-width="{width}"/><text x="8" y="{:.1}">{times} ×</text>"##,
            y + 4.0
        )
        .unwrap();
    }
    for count in counts {
        let x = x(*count as f64);
        writeln!(
            out,
            r##"<path d="M{x:.1} {top}V{:.1}" stroke="#cccccc" stroke-width="0.5"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{count}</text>"##,
            HEIGHT - bottom,
            HEIGHT - bottom + 20.0
        )
        .unwrap();
    }
    for (place, (row, name, colour, is_rate)) in LINES.into_iter().enumerate() {
        let costs: Vec<f64> = columns
            .iter()
            .map(|column| if is_rate { columns[0][row] / column[row] } else { column[row] / columns[0][row] })
            .collect();
        let points: Vec<String> = counts
            .iter()
            .zip(&costs)
            .map(|(count, cost)| format!("{:.1},{:.1}", x(*count as f64), y(cost.clamp(0.1, TIMES))))
            .collect();
        let (key, label) = (WIDTH - right + 20.0, top + 16.0 + 28.0 * place as f64);
        writeln!(
            out,
            r##"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>
<path d="M{key} {:.1}h24" stroke="{colour}" stroke-width="3"/><text x="{}" y="{label:.1}">{name}: {:.2} ×</text>"##,
            points.join(" "),
            label - 4.0,
            key + 32.0,
            costs[costs.len() - 1]
        )
        .unwrap();
    }
    out + "</svg>\n"
}
