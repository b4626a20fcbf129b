//! How much memory nodes take while they do as much as they can.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plotters::prelude::*;

use super::{drive, writes};
use crate::zraft_nodes::{FIRST, Zraft};

const CLIENTS: usize = 256;
const DURATION: Duration = Duration::from_secs(600);
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
const SIZE: (u32, u32) = (900, 420);

/// Seconds since the beginning, and MiB of each node.
type Sample = (f64, Vec<f64>);

pub fn measure(zraft: &Zraft, out: Option<&Path>) {
    let has_ended = AtomicBool::new(false);
    let (measured, samples) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(zraft, &has_ended));
        let measured = drive(zraft, vec![zraft.peers(FIRST)], &writes(CLIENTS, DURATION));
        has_ended.store(true, Ordering::Relaxed);
        (measured, sampler.join().expect("memory can be looked at"))
    });
    println!("{} writes, {:.0} a second; MiB of each node:", measured.writes.count(), measured.throughput());
    for minute in 0..=DURATION.as_secs() / 60 {
        let at = samples.iter().find(|(second, _)| *second >= 60.0 * minute as f64);
        let mib = at.map(|(_, mib)| mib.iter().map(|mib| format!("{mib:.0}")).collect::<Vec<_>>().join(", "));
        println!("minute {minute}: {}", mib.unwrap_or_default());
    }
    if let Some(out) = out
        && let Err(error) = draw(out, &samples)
    {
        eprintln!("cannot draw {}: {error}", out.display());
    }
}

fn sample(zraft: &Zraft, has_ended: &AtomicBool) -> Vec<Sample> {
    let began = Instant::now();
    let mut samples = Vec::new();
    while !has_ended.load(Ordering::Relaxed) {
        let mib = zraft.memory_of_nodes().iter().map(|bytes| *bytes as f64 / f64::from(1 << 20)).collect();
        samples.push((began.elapsed().as_secs_f64(), mib));
        std::thread::sleep(SAMPLE_EVERY);
    }
    samples
}

fn draw(path: &Path, samples: &[Sample]) -> Result<(), Box<dyn Error>> {
    let mut svg = String::new();
    draw_to(&mut svg, samples)?;
    Ok(std::fs::write(path, svg)?)
}

fn draw_to(svg: &mut String, samples: &[Sample]) -> Result<(), Box<dyn Error>> {
    let most = samples.iter().flat_map(|(_, mib)| mib.iter().copied()).fold(1.0, f64::max);
    let last = samples.last().map_or(1.0, |(second, _)| *second);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("memory of three nodes under full load", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..last, 0.0..most * 1.2)?;
    chart.configure_mesh().x_desc("seconds").y_desc("resident, MiB").draw()?;
    let nodes = samples.first().map_or(0, |(_, mib)| mib.len());
    for node in 0..nodes {
        let color = Palette99::pick(node).to_rgba();
        let points = samples.iter().map(|(second, mib)| (*second, mib[node]));
        chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
    }
    area.present()?;
    Ok(())
}
