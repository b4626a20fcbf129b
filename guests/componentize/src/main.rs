//! `componentize MODULE COMPONENT`: makes a component out of a core module that was built for
//! wasm32-unknown-unknown and carries its contract, as modules built with `zraft-backend` do.

use std::error::Error;
use std::fs;
use std::process::ExitCode;

use wit_component::ComponentEncoder;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, component] = arguments.as_slice() else {
        eprintln!("usage: componentize MODULE COMPONENT");
        return ExitCode::from(2);
    };
    match componentize(module, component) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("componentize: {module}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn componentize(module: &str, component: &str) -> Result<(), Box<dyn Error>> {
    let encoded = ComponentEncoder::default().validate(true).module(&fs::read(module)?)?.encode();
    // The alternate form prints the whole chain of causes.
    let encoded = encoded.map_err(|error| format!("{error:#}"))?;
    Ok(fs::write(component, encoded)?)
}
