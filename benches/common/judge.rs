//! What benchmarks do with their figures.

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints whether a target holds, and returns it.
pub fn judge(target: &str, found: f64, unit: &str, holds: bool) -> bool {
    println!("{} {target}: {found:.2}{unit}", if holds { "held  " } else { "MISSED" });
    holds
}
