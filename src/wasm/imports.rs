//! What a component imports, and what it is given of it.

use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker};

use super::component::ComponentError;
use super::guest::Guest;
use super::wasi::{self, Support};

/// The interface that holds the contract's types.
const TYPES: &str = "zraft:backend/types@0.1.0";

/// Something that a component imports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Its name: an interface such as `wasi:cli/exit@0.2.6`, or what stands outside of interfaces.
    pub name: String,
    /// What the component is given.
    pub given: Given,
    /// Whether it shows which entry is being applied, as clocks and random numbers do. A component that imports such a thing
    /// is given one command a call.
    pub shows_the_moment: bool,
}

/// What this host gives for an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// All that it imports of it.
    All,
    /// The names alone: a call ends the instance.
    Traps,
    /// Not all, so that the component is refused. These items are missing; none are named where all are.
    Not(Vec<String>),
}

impl Import {
    /// By what names the component is refused.
    pub(super) fn refused(&self) -> Vec<String> {
        match &self.given {
            Given::All | Given::Traps => Vec::new(),
            Given::Not(items) if items.is_empty() => vec![self.name.clone()],
            Given::Not(items) => items.iter().map(|item| format!("{} {item}", self.name)).collect(),
        }
    }
}

/// Everything that a component is given, and all of its imports, in the order of their names.
pub(super) fn link(engine: &Engine, component: &Component) -> Result<(Linker<Guest>, Vec<Import>), ComponentError> {
    let mut linker = Linker::new(engine);
    let ty = component.component_type();
    let mut imports = Vec::new();
    for (name, import) in ty.imports(engine) {
        let items: Vec<_> = match import.ty {
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(engine).map(|(item, export)| (item.to_owned(), export.ty)).collect()
            }
            _ => Vec::new(),
        };
        let given = give(&mut linker, name, &items).map_err(|error| ComponentError::Host(format!("{error:#}")))?;
        // Types of time come along with files, and show nothing.
        let has_functions = items.iter().any(|(_, ty)| matches!(ty, ComponentItem::ComponentFunc(_)));
        let shows_the_moment = has_functions && wasi::shows_the_moment(name);
        imports.push(Import { name: name.to_owned(), given, shows_the_moment });
    }
    imports.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok((linker, imports))
}

fn give(linker: &mut Linker<Guest>, name: &str, items: &[(String, ComponentItem)]) -> wasmtime::Result<Given> {
    let mut missing = Vec::new();
    let given = match (name, wasi::support(name)) {
        (TYPES, _) => {
            let functions = items.iter().filter(|(_, ty)| !matches!(ty, ComponentItem::Type(_)));
            missing.extend(functions.map(|(item, _)| item.clone()));
            Given::All
        }
        (_, None) => Given::Not(Vec::new()),
        (_, Some(support)) => {
            let mut instance = linker.instance(name)?;
            for (item, ty) in items {
                if !wasi::define(&mut instance, name, item, ty)? {
                    missing.push(item.clone());
                }
            }
            if support == Support::Traps { Given::Traps } else { Given::All }
        }
    };
    Ok(if missing.is_empty() { given } else { Given::Not(missing) })
}
