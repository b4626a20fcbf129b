//! What a write costs more once the state is large, beside the same natively.

use zraft::machine::{BackendFactory, Budget, Moment};
use zraft::wasm::WasmFactory;

use super::calls::{commands, fill, puts};
use super::judge::judge;
use super::native::NativeFactory;

/// Almost nothing, and 1 GB.
const KEYS: [usize; 2] = [1_000, 4_000_000];
const VALUE_BYTES: usize = 240;
const BATCH: usize = 128;

/// How much more the cost in a component may rise than it does natively.
const MOST_OF_NATIVE: f64 = 1.15;

/// Measures, prints the table, and returns whether the target holds.
pub fn measure(component: &WasmFactory) -> bool {
    println!("\nPuts of {VALUE_BYTES} bytes with a small state and with one of 1 GB, in ns each.\n");
    println!("   keys  call          | native  component | component/native");
    let [small, large] = KEYS.map(|keys| {
        let mut sides =
            [NativeFactory.init(Moment::default(), b"").unwrap(), component.init(Moment::default(), b"").unwrap()];
        for side in &mut sides {
            // Small values take more than the configured memory, beside themselves.
            side.set_budget(Budget::Relaxed);
            fill(side.as_mut(), keys, VALUE_BYTES);
        }
        puts(keys, BATCH, &commands(keys, VALUE_BYTES), &mut sides)
    });
    println!();
    let target =
        format!("cost of a put with 1 GB, of that with little, by what it is natively: at most {MOST_OF_NATIVE} times");
    judge(&target, large / small, "", large / small <= MOST_OF_NATIVE)
}
