//! Decides whether bytes are a component that fits the contract, and says by name what does not.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use wasmtime::Engine;
use wasmtime::component::types::{self, ComponentFunc, ComponentInstance, ComponentItem};
use wasmtime::component::{Component, ComponentNamedList, Lift, Lower, ResourceAny};

use super::contract::BackendPre;
use super::contract::exports::zraft::backend::machine;
use super::guest::Guest;
use super::imports::{self, Import};
use super::instance::WasmFactory;
use super::limits::{MAX_MEMORIES, MAX_TABLES};
use super::watchdog::Watchdog;
use crate::settings::Budgets;
use crate::types::{ClusterId, Digest};

/// The largest component, in bytes. Python's and JavaScript's bring their interpreter along, some 20 MB.
pub const MAX_COMPONENT_BYTES: usize = 64 << 20;

/// The interface that a backend exports.
pub const MACHINE: &str = "zraft:backend/machine@0.1.0";

/// The resources of [`MACHINE`].
const RESOURCES: &[&str] = &["snapshot-reader", "snapshot-writer"];

type TypeCheck = fn(&ComponentFunc, &types::Component) -> wasmtime::Result<()>;

/// The functions of [`MACHINE`], each with a check of its type. Without it, a function of another type would come to
/// light only when a replica starts.
const FUNCTIONS: &[(&str, TypeCheck)] = &[
    ("version", check_type::<(), (String,)>),
    ("init", check_type::<(&[u8],), (Result<(), String>,)>),
    ("apply", check_type::<(&[machine::Command<'_>],), (Vec<machine::Outcome>,)>),
    ("query", check_type::<(&[u8],), (machine::Answer,)>),
    ("expire-session", check_type::<(u64, u64, u64), (Vec<Vec<u8>>,)>),
    ("[method]snapshot-reader.next", check_type::<(ResourceAny, u32), (Option<Vec<u8>>,)>),
    ("snapshot", check_type::<(), (ResourceAny,)>),
    ("[method]snapshot-writer.write", check_type::<(ResourceAny, &[u8]), (Result<(), String>,)>),
    ("[static]snapshot-writer.finish", check_type::<(ResourceAny,), (Result<(), String>,)>),
    ("restore", check_type::<(machine::Origin<'_>,), (Result<ResourceAny, String>,)>),
];

fn check_type<Params, Return>(function: &ComponentFunc, component: &types::Component) -> wasmtime::Result<()>
where
    Params: ComponentNamedList + Lower,
    Return: ComponentNamedList + Lift,
{
    function.typecheck::<Params, Return>(&component.instance_type())
}

/// Why bytes are not a backend. Whoever built them is to blame, if nobody else is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ComponentError {
    /// Larger than [`MAX_COMPONENT_BYTES`].
    #[error("it has {0} bytes, and a backend has at most {MAX_COMPONENT_BYTES}: build it for release and strip it")]
    TooLarge(usize),
    /// Not WebAssembly at all.
    #[error("it is not WebAssembly: give the .wasm file that the build made")]
    NotWasm,
    /// A core module of which no component can be made: why.
    #[error("it is a core module, and no component can be made of it: {0}")]
    CoreModule(String),
    /// Text in place of a binary.
    #[error("it is WebAssembly text: assemble it first, for example with 'wasm-tools parse'")]
    Text,
    /// The engine refuses it: it is damaged, or uses a feature that is off because it is not deterministic.
    #[error("the engine refuses it: {0}")]
    Malformed(String),
    /// It needs more of something than an instance may have.
    #[error("it has {count} {what}, and a backend has at most {most}")]
    TooMany {
        /// Of what.
        what: Cow<'static, str>,
        /// How many it has.
        count: u32,
        /// How many it may have.
        most: usize,
    },
    /// It lacks exports of the contract.
    #[error("it does not export {}{}", Names(missing), Instead(found))]
    MissingExports {
        /// The exports it lacks.
        missing: Vec<String>,
        /// What it exports instead, where the whole interface is missing.
        found: Vec<String>,
    },
    /// It imports what a backend is not given.
    #[error("it imports {}, which a backend is not given", Names(.0))]
    UnknownImports(Vec<String>),
    /// An import or export has the right name and the wrong type.
    #[error("a function has another type than in the contract: {0}")]
    WrongType(String),
    /// Compiling it takes more than the address space that a node gives to it, in bytes.
    #[error(
        "compiling it takes more than {0} bytes of memory: make it smaller, or have the node's operator raise \
         'compile_memory_bytes'"
    )]
    CompileMemory(u64),
    /// Compiling it takes more than the time that a node gives to it, in milliseconds. So it may where the node has much else
    /// to do.
    #[error(
        "compiling it takes more than {0} ms: make it smaller, try when the node has less to do, or have its operator raise \
         'compile_deadline_ms'"
    )]
    CompileTime(u64),
    /// Its compiled form is larger than a node keeps, in bytes.
    #[error("its compiled form has more than {0} bytes: make it smaller")]
    CompiledSize(usize),
    /// Somebody on the node is to blame, or a defect of zraft: the process that compiled it came to this end.
    #[error("the process on this node that compiled it {0}; try again")]
    Compiler(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// This node is to blame: it could not finish compiling.
    #[error("this node could not compile it: {0}")]
    Host(String),
}

struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

struct Instead<'a>(&'a [String]);

impl fmt::Display for Instead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "; it exports {}", Names(self.0)) }
    }
}

/// What a file of WebAssembly is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A component.
    Component,
    /// A core module, of which a component is made before it is compiled.
    CoreModule,
}

impl Kind {
    /// Tells it by the first bytes.
    ///
    /// # Errors
    /// [`ComponentError`] when a backend is never such a file.
    pub fn of(bytes: &[u8]) -> Result<Self, ComponentError> {
        if bytes.len() > MAX_COMPONENT_BYTES {
            return Err(ComponentError::TooLarge(bytes.len()));
        }
        match bytes {
            // A component's version is 13 in layer 1, a core module's 1 in layer 0.
            [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(Self::Component),
            [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(Self::CoreModule),
            [0, b'a', b's', b'm', ..] => Err(ComponentError::Malformed("unknown version of WebAssembly".to_owned())),
            [b'(', ..] => Err(ComponentError::Text),
            _ => Err(ComponentError::NotWasm),
        }
    }
}

/// A compiled component that fits the contract. Cheap to clone.
#[derive(Clone)]
pub struct WasmBackend {
    digest: Digest,
    pre: BackendPre<Guest>,
    watchdog: Watchdog,
    one_by_one: bool,
}

impl WasmBackend {
    pub(super) fn new(
        engine: &Engine,
        component: Component,
        digest: Digest,
        watchdog: Watchdog,
    ) -> Result<Self, ComponentError> {
        check_parts(&component)?;
        let (linker, imports) = imports::link(engine, &component)?;
        let refused: Vec<_> = imports.iter().flat_map(Import::refused).collect();
        if !refused.is_empty() {
            return Err(ComponentError::UnknownImports(refused));
        }
        let one_by_one = imports.iter().any(|import| import.shows_the_moment);
        let wrong_type = |error| ComponentError::WrongType(format!("{error:#}"));
        let pre = linker.instantiate_pre(&component).map_err(wrong_type)?;
        check_exports(engine, &component)?;
        let pre = BackendPre::new(pre).map_err(wrong_type)?;
        Ok(Self { digest, pre, watchdog, one_by_one })
    }

    /// The digest of the component's bytes: its name.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether instances are given one command a call, because the component imports what shows the moment: clocks or
    /// randomness.
    #[must_use]
    pub fn is_one_by_one(&self) -> bool {
        self.one_by_one
    }

    /// Makes instances for one cluster. `budgets` bound what their calls may use; the cluster's identity seeds what
    /// they see of randomness.
    #[must_use]
    pub fn factory(&self, cluster: ClusterId, budgets: Budgets) -> WasmFactory {
        WasmFactory::new(self.pre.clone(), self.watchdog.clone(), self.one_by_one, cluster, budgets)
    }
}

impl fmt::Debug for WasmBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WasmBackend").field("digest", &self.digest).finish_non_exhaustive()
    }
}

fn check_parts(component: &Component) -> Result<(), ComponentError> {
    // Only a component that imports modules does not know, and that import is refused later.
    let Some(parts) = component.resources_required() else { return Ok(()) };
    for (what, count, most) in
        [("memories", parts.num_memories, MAX_MEMORIES), ("tables", parts.num_tables, MAX_TABLES)]
    {
        if count as usize > most {
            return Err(ComponentError::TooMany { what: what.into(), count, most });
        }
    }
    Ok(())
}

/// The names of everything that a component exports.
pub(super) fn export_names(engine: &Engine, component: &Component) -> Vec<String> {
    component.component_type().exports(engine).map(|(name, _)| name.to_owned()).collect()
}

fn check_exports(engine: &Engine, component: &Component) -> Result<(), ComponentError> {
    let ty = component.component_type();
    let Some(ComponentItem::ComponentInstance(machine)) = ty.get_export(engine, MACHINE).map(|export| export.ty) else {
        let found = export_names(engine, component);
        return Err(ComponentError::MissingExports { missing: vec![MACHINE.to_owned()], found });
    };
    let missing = missing_items(engine, &machine);
    if !missing.is_empty() {
        return Err(ComponentError::MissingExports { missing, found: Vec::new() });
    }
    for (name, check) in FUNCTIONS {
        if let Some(ComponentItem::ComponentFunc(function)) = machine.get_export(engine, name).map(|export| export.ty) {
            let wrong = |error| ComponentError::WrongType(format!("{MACHINE} {name}: {error:#}"));
            check(&function, &ty).map_err(wrong)?;
        }
    }
    Ok(())
}

fn missing_items(engine: &Engine, machine: &ComponentInstance) -> Vec<String> {
    let item = |name: &str| machine.get_export(engine, name).map(|export| export.ty);
    let resources = RESOURCES.iter().filter(|name| !matches!(item(name), Some(ComponentItem::Resource(_))));
    let functions = FUNCTIONS
        .iter()
        .map(|(name, _)| name)
        .filter(|name| !matches!(item(name), Some(ComponentItem::ComponentFunc(_))));
    resources.chain(functions).map(|name| format!("{MACHINE} {name}")).collect()
}
