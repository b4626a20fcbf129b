//! Latency against throughput, as a picture.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use super::report::{PERCENTILES, Step, ms};

const SIZE: (u32, u32) = (900, 560);

/// Draws a line for each percentile over the steps, latency on a logarithmic axis.
pub(super) fn draw(path: &Path, steps: &[Step]) -> Result<(), Box<dyn Error>> {
    // The whole is drawn before the file is touched.
    let mut svg = String::new();
    draw_to(&mut svg, steps)?;
    Ok(std::fs::write(path, svg)?)
}

fn draw_to(svg: &mut String, steps: &[Step]) -> Result<(), Box<dyn Error>> {
    let most = steps.iter().map(|step| step.measured.throughput()).fold(1.0, f64::max);
    let latencies = || steps.iter().flat_map(|step| PERCENTILES.map(|(percent, _)| latency(step, percent)));
    let (least_ms, most_ms) = (latencies().fold(f64::MAX, f64::min), latencies().fold(0.0, f64::max));
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("zraft bench: latency against throughput", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..most * 1.05, (least_ms / 2.0..most_ms * 2.0).log_scale())?;
    chart.configure_mesh().x_desc("requests answered a second").y_desc("latency, ms").draw()?;
    for (number, (percent, name)) in PERCENTILES.into_iter().enumerate() {
        let color = Palette99::pick(number).to_rgba();
        let points = steps.iter().map(|step| (step.measured.throughput(), latency(step, percent)));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(3))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}

/// In milliseconds. Never zero, which has no logarithm.
fn latency(step: &Step, percent: f64) -> f64 {
    ms(step.measured.all().percentile(percent)).max(0.001)
}
