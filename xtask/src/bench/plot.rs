//! The plot of how cost grows with the number of workers, as SVG.

use std::fmt::Write as _;

use super::figures::{Figures, grouped};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
/// The plotted area.
const LEFT: f64 = 60.0;
const RIGHT: f64 = 540.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 310.0;
/// The horizontal axis.
const SIZES: [u64; 5] = [1, 10, 100, 1_000, 5_000];

/// What is plotted, each in its colour.
const LINES: [(&str, &str); 4] = [
    ("restart", "#c2410c"),
    ("start", "#1d4ed8"),
    ("stop, workers gone", "#15803d"),
    ("stop, release confirmed", "#7e22ce"),
];

/// Times the floor over the number of workers, with the spread of each point.
pub(super) fn growth(figures: &Figures) -> String {
    let points = |what: &'static str| {
        let measures = figures.of_subject("pools").filter(move |measure| measure.what == what);
        measures.filter_map(|measure| Some((measure.workers, measure.ratio()?)))
    };
    let all = || LINES.iter().flat_map(|(what, _)| points(what)).map(|(_, ratio)| ratio);
    // Both axes are logarithmic; this one has a line for each power of two.
    let bottom = all().map(|ratio| ratio.low).fold(1.0, f64::min).log2().floor();
    let top = all().map(|ratio| ratio.high).fold(2.0, f64::max).log2().ceil();
    let x = |workers: u64| LEFT + (RIGHT - LEFT) * (workers as f64).ln() / 5_000_f64.ln();
    let y = |ratio: f64| BOTTOM - (BOTTOM - TOP) * (ratio.log2() - bottom) / (top - bottom);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>Cost per worker, as times the floor of the same run, by the number of workers</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">Times the floor, by the number of workers (median, lowest to highest)</text>\n"
    );
    let mut line = |text: std::fmt::Arguments<'_>| writeln!(svg, "{text}").expect("a string");
    for power in bottom as i32..=top as i32 {
        let step = 2_f64.powi(power);
        let (at, below) = (y(step), y(step) + 4.0);
        line(format_args!(
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{RIGHT}\" y2=\"{at:.1}\" stroke=\"#d4d4d8\"/><text x=\"{}\" y=\"{below:.1}\" text-anchor=\"end\">{step}</text>",
            LEFT - 8.0
        ));
    }
    for size in SIZES {
        line(format_args!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(size),
            BOTTOM + 18.0,
            grouped(size)
        ));
    }
    for (number, (what, colour)) in LINES.into_iter().enumerate() {
        let path: Vec<String> = points(what)
            .map(|(workers, ratio)| format!("{:.1},{:.1}", x(workers), y(ratio.median)))
            .collect();
        line(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        ));
        for (workers, ratio) in points(what) {
            // Side by side, so that the spreads of one size stay distinguishable.
            let at = x(workers) + 3.0 * (number as f64 - 1.5);
            line(format_args!(
                "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-opacity=\"0.5\"/><circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                y(ratio.low),
                y(ratio.high),
                x(workers),
                y(ratio.median)
            ));
        }
        let at = TOP + 24.0 * number as f64;
        line(format_args!(
            "<line x1=\"{}\" y1=\"{at}\" x2=\"{}\" y2=\"{at}\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{}\" y=\"{}\">{what}</text>",
            RIGHT + 16.0,
            RIGHT + 36.0,
            RIGHT + 42.0,
            at + 4.0
        ));
    }
    let at = y(1.0);
    line(format_args!(
        "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{RIGHT}\" y2=\"{at:.1}\" stroke=\"#52525b\" stroke-dasharray=\"4 3\"/><text x=\"{}\" y=\"{:.1}\">the floor</text>",
        RIGHT + 16.0,
        at + 4.0
    ));
    line(format_args!("</svg>"));
    svg
}
