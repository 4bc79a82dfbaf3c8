//! A plot of few points, as SVG.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 48.0;
const MARGIN: f64 = 24.0;
const COLOURS: [&str; 3] = ["#1f6f8b", "#d1603d", "#5b7f3a"];
const TICKS: u32 = 5;

/// One line of the plot.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Draws lines from zero on, with what the axes tell.
pub(crate) fn svg(across: &str, upward: &str, lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let most = |of: fn(&(f64, f64)) -> f64| round_up(all().map(of).fold(0.0, f64::max));
    let (x_max, y_max) = (most(|point| point.0), most(|point| point.1));
    let x = |value: f64| LEFT + value / x_max * (WIDTH - LEFT - MARGIN);
    let y = |value: f64| HEIGHT - BOTTOM - value / y_max * (HEIGHT - BOTTOM - MARGIN);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
    );
    let mut put = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    for tick in 0..=TICKS {
        let share = f64::from(tick) / f64::from(TICKS);
        let (at_x, at_y) = (x(x_max * share), y(y_max * share));
        put(format!(
            "<line x1=\"{LEFT}\" y1=\"{at_y:.1}\" x2=\"{:.1}\" y2=\"{at_y:.1}\" stroke=\"#dddddd\"/>",
            WIDTH - MARGIN
        ));
        put(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at_y + 4.0,
            y_max * share
        ));
        put(format!(
            "<text x=\"{at_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM + 16.0,
            x_max * share
        ));
    }
    put(format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{across}</text>",
        (LEFT + WIDTH - MARGIN) / 2.0,
        HEIGHT - 10.0
    ));
    put(format!("<text x=\"{LEFT}\" y=\"15\">{upward}</text>"));
    for ((line, colour), row) in lines.iter().zip(COLOURS.iter().cycle()).zip(0u32..) {
        let points: Vec<_> = line
            .points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1)))
            .collect();
        put(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        ));
        for point in &line.points {
            put(format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x(point.0),
                y(point.1)
            ));
        }
        put(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            LEFT + 12.0,
            MARGIN + 20.0 + 18.0 * f64::from(row),
            line.name
        ));
    }
    text.push_str("</svg>\n");
    text
}

/// To one, two or five times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(f64::MIN_POSITIVE).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_where_they_belong() {
        let line = Line {
            name: "a",
            points: vec![(0.0, 0.0), (10.0, 5.0)],
        };
        let drawn = svg("across", "upward", &[line]);
        assert!(drawn.contains("points=\"64.0,312.0 616.0,24.0\""), "{drawn}");
        assert_eq!((round_up(3.1), round_up(7.0), round_up(1000.0)), (5.0, 10.0, 1000.0));
    }
}
