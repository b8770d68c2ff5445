//! Drawings, as SVG: small, the same bytes for the same figures, readable on white and on black.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Outcome;
use crate::figures::{Latencies, Spread, number};

const SIZE: (u32, u32) = (800, 420);
const FONT: &str = "sans-serif";
/// Colours that people who see few of them can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// Horizontal bars with their extremes.
pub(crate) fn bars(title: &str, bars: &[(String, Spread)]) -> Outcome<String> {
    let most = bars.iter().map(|(_, spread)| spread.most()).fold(0.0, f64::max);
    let rows = bars.len() as f64;
    draw(|area| {
        let mut chart = ChartBuilder::on(&area)
            .caption(title, (FONT, 20))
            .margin(16)
            .x_label_area_size(32)
            .build_cartesian_2d(0.0..most * 1.15, 0.0..rows)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&tick)
            .draw()?;
        for (position, (name, spread)) in bars.iter().enumerate() {
            let middle = rows - position as f64 - 0.5;
            let colour = if name.starts_with("newcycle") { COLOURS[0] } else { COLOURS[1] };
            let bar = [(0.0, middle - 0.3), (spread.median(), middle + 0.1)];
            chart.draw_series([Rectangle::new(bar, colour.filled())])?;
            let extremes = [(spread.least(), middle - 0.1), (spread.most(), middle - 0.1)];
            chart.draw_series([PathElement::new(extremes, BLACK.stroke_width(2))])?;
            let label = format!("{name}: {}", number(spread.median()));
            chart.draw_series([Text::new(label, (most * 0.005, middle + 0.35), (FONT, 15))])?;
        }
        area.present()?;
        Ok(())
    })
}

/// How long the slowest of ten, a hundred, a thousand … take.
pub(crate) fn percentiles(title: &str, curves: &[(String, Latencies)]) -> Outcome<String> {
    /// Up to 99.99 %, in steps of a tenth of a nine.
    const STEPS: u32 = 40;
    let at = |latencies: &Latencies, nines: f64| latencies.value_at_quantile(1.0 - 10_f64.powf(-nines)) as f64 / 1e6;
    let curves: Vec<(_, Vec<_>)> = curves
        .iter()
        .map(|(name, latencies)| {
            let nines = (0..=STEPS).map(|step| f64::from(step) / 10.0);
            (name.as_str(), nines.map(|nines| (nines, at(latencies, nines))).collect())
        })
        .collect();
    let values = || curves.iter().flat_map(|(_, points)| points).map(|(_, millis)| *millis);
    let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max));
    let percent = |nines: &f64| format!("{} %", 100.0 * (1.0 - 10_f64.powf(-nines)));
    draw(|area| {
        let mut chart = ChartBuilder::on(&area)
            .caption(title, (FONT, 20))
            .margin(16)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..4.0, (least * 0.8..most * 1.25).log_scale())?;
        chart
            .configure_mesh()
            .x_labels(5)
            .x_label_formatter(&percent)
            .y_label_formatter(&tick)
            .x_desc("so many are not slower")
            .y_desc("milliseconds")
            .light_line_style(TRANSPARENT)
            .draw()?;
        for ((name, points), colour) in curves.iter().zip(COLOURS) {
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        legend(&mut chart, SeriesLabelPosition::LowerRight)?;
        area.present()?;
        Ok(())
    })
}

/// A line for each of several, over named places.
pub(crate) fn lines(title: &str, places: &[&str], lines: &[(String, Vec<f64>)]) -> Outcome<String> {
    let most = lines.iter().flat_map(|(_, values)| values).copied().fold(0.0, f64::max);
    let name = |place: &f64| match place.fract() {
        0.0 if *place >= 0.0 => places.get(*place as usize).copied().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    draw(|area| {
        let mut chart = ChartBuilder::on(&area)
            .caption(title, (FONT, 20))
            .margin(16)
            .x_label_area_size(32)
            .y_label_area_size(56)
            .build_cartesian_2d(-0.25..places.len() as f64 - 0.75, 0.0..most * 1.3)?;
        chart
            .configure_mesh()
            .x_labels(2 * places.len())
            .x_label_formatter(&name)
            .y_label_formatter(&tick)
            .y_desc("milliseconds")
            .light_line_style(TRANSPARENT)
            .disable_x_mesh()
            .draw()?;
        for ((name, values), colour) in lines.iter().zip(COLOURS) {
            let points = || values.iter().enumerate().map(|(place, value)| (place as f64, *value));
            chart
                .draw_series(LineSeries::new(points(), colour.stroke_width(2)))?
                .label(name.as_str())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
            chart.draw_series(points().map(|point| Circle::new(point, 3, colour.filled())))?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
        area.present()?;
        Ok(())
    })
}

fn legend<'a, B, X, Y>(chart: &mut ChartContext<'a, B, Cartesian2d<X, Y>>, place: SeriesLabelPosition) -> Outcome<()>
where
    B: DrawingBackend + 'a,
    B::ErrorType: 'static,
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(place)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 15))
        .draw()?;
    Ok(())
}

/// A number at an axis: no more digits than it has.
fn tick(value: &f64) -> String {
    if *value < 1_000.0 { format!("{}", (value * 1e6).round() / 1e6) } else { number(*value) }
}

fn draw(drawing: impl FnOnce(DrawingArea<SVGBackend<'_>, Shift>) -> Outcome<()>) -> Outcome<String> {
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    drawing(area)?;
    Ok(text)
}
