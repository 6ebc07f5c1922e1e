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
    chart.configure_mesh().x_desc("step").y_desc("loss").x_label_formatter(&|step| format!("{step:.0}")).draw()?;
    for (name, points, colour) in curves.iter().filter(|(_, points, _)| !points.is_empty()) {
        let colour = *colour;
        let series = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        let sample = move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour);
        chart.draw_series(series)?.label(*name).legend(sample);
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
    area.present()?;
    Ok(())
}
