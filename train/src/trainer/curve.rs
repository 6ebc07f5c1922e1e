//! The losses of a run as a picture.

use super::state::LogEntry;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use serde_json::Value;

const SIZE: (u32, u32) = (960, 540);

/// The curves of `loss` and `eval_loss` over the steps, as SVG; none without two values of either.
pub fn svg(history: &[LogEntry]) -> Result<Option<String>> {
    let curve = |name: &'static str| -> Vec<(f64, f64)> {
        let point = |entry: &LogEntry| Some((entry.get("step")?.as_f64()?, entry.get(name).and_then(Value::as_f64)?));
        history.iter().filter_map(point).collect()
    };
    let curves = [("loss", curve("loss"), BLUE), ("eval_loss", curve("eval_loss"), RED)];
    let points = || curves.iter().flat_map(|(_, points, _)| points);
    if curves.iter().all(|(_, points, _)| points.len() < 2) {
        return Ok(None);
    }
    let last = points().map(|(step, _)| *step).fold(1., f64::max);
    let top = points().map(|(_, loss)| *loss).fold(0., f64::max) * 1.05;
    let bottom = points().map(|(_, loss)| *loss).fold(0., f64::min) * 1.05;
    let mut text = String::new();
    draw(&mut text, &curves, last, bottom..top.max(bottom + 1e-9))
        .map_err(|error| anyhow!("drawing the loss: {error}"))?;
    Ok(Some(text))
}

type Curve = (&'static str, Vec<(f64, f64)>, RGBColor);

fn draw(
    text: &mut String,
    curves: &[Curve],
    last: f64,
    losses: std::ops::Range<f64>,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0f64..last, losses)?;
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT).x_desc("step").y_desc("loss").x_label_formatter(&|step| format!("{step:.0}"));
    mesh.draw()?;
    for (name, points, colour) in curves.iter().filter(|(_, points, _)| !points.is_empty()) {
        let colour = *colour;
        let series = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        let sample = move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour);
        chart.draw_series(series)?.label(*name).legend(sample);
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperRight).border_style(BLACK).background_style(WHITE).draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_falling_loss_is_a_falling_line_and_held_out_losses_are_another() {
        let entry = |step: usize, name: &str, value: f64| -> LogEntry {
            [("step".to_owned(), json!(step)), (name.to_owned(), json!(value))].into_iter().collect()
        };
        let history = [entry(10, "loss", 4.), entry(20, "loss", 2.), entry(20, "eval_loss", 3.), entry(30, "loss", 1.)];
        let svg = svg(&history).unwrap().expect("three values are a curve");
        assert!(["eval_loss", "step"].iter().all(|word| svg.contains(word)), "{svg}");
        let line = svg.split("<polyline ").find(|line| line.contains("#0000FF") && line.matches(',').count() >= 3);
        let points =
            line.and_then(|line| line.split("points=\"").nth(1)?.split('"').next()).expect("the curve of the loss");
        let heights: Vec<i32> =
            points.split_whitespace().map(|at| at.split(',').nth(1).unwrap().parse().unwrap()).collect();
        // Downwards in a picture is upwards in its numbers, and the second fall is half the first.
        let [first, second] = [heights[1] - heights[0], heights[2] - heights[1]];
        assert!(heights.len() == 3 && first > 0 && (first - 2 * second).abs() <= 2, "{heights:?}");
        assert!(super::svg(&history[..1]).unwrap().is_none(), "one value is none");
    }
}
