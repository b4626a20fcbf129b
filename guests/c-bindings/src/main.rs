//! `c-bindings FOLDER`: writes `backend.c` and `backend.h`, the C of the contract, as `zraft backend new --lang c` gives them
//! to authors.
//!
//! They are what `wit-bindgen c` makes, with short names and two corrections:
//! - It exports the destructors of resources by their names in C, `snapshot_reader` for `snapshot-reader`, so that nobody
//!   finds them and what a resource holds is never freed.
//! - It makes the link depend on an object file that describes the contract; zraft adds that description itself.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::Resolve;

const CONTRACT: &str = include_str!("../../sdk/wit/zraft.wit");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder] = arguments.as_slice() else {
        eprintln!("usage: c-bindings FOLDER");
        return ExitCode::from(2);
    };
    match write(Path::new(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("c-bindings: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut resolve = Resolve::new();
    let package = resolve.push_source("zraft.wit", CONTRACT)?;
    let world = resolve.select_world(&[package], None)?;
    let short = |interface: &str| (format!("zraft:backend/{interface}@0.1.0"), interface.to_owned());
    let options = wit_bindgen_c::Opts {
        no_object_file: true,
        rename: vec![short("machine"), short("types")],
        ..wit_bindgen_c::Opts::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files)?;
    fs::create_dir_all(folder)?;
    for (name, contents) in files.iter() {
        fs::write(folder.join(name), corrected(std::str::from_utf8(contents)?)?)?;
    }
    Ok(())
}

fn corrected(text: &str) -> Result<String, &'static str> {
    const LINK: &str = "// Ensure that the *_component_type.o object is linked in";
    let text = text.split(LINK).next().unwrap_or(text);
    if text.contains("__component_type_object_force_link") {
        return Err("the generator asks for its object file in another way than it used to");
    }
    Ok(text.trim_end().replace("#[dtor]snapshot_", "#[dtor]snapshot-") + "\n")
}
