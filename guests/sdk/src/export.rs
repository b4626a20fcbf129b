//! What [`export!`](crate::export!) expands to: the component's exports, on top of a [`Backend`]. Not part of the API.

use std::any::Any;
use std::cell::RefCell;
use std::marker::PhantomData;

use crate::{Apply, Backend, Origin, calls};

#[allow(missing_docs, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "backend",
        runtime_path: "wit_bindgen::rt",
        pub_export_macro: true,
        export_macro_name: "export_backend",
        default_bindings_module: "zraft_backend::export::bindings",
    });
}

use bindings::exports::zraft::backend::machine;

thread_local! {
    /// The state. One component holds one backend, but a static cannot be generic.
    static STATE: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

fn with_state<B: Backend, R>(call: impl FnOnce(&mut B) -> R) -> R {
    STATE.with_borrow_mut(|state| {
        let state = state.as_mut().expect("init or restore comes before every other call");
        call(state.downcast_mut().expect("a component exports one backend"))
    })
}

fn set_state<B: Backend>(state: B) {
    STATE.set(Some(Box::new(state)));
}

/// The exports of a component around `B`.
#[derive(Debug)]
pub struct Component<B>(PhantomData<B>);

impl<B: Backend> machine::Guest for Component<B> {
    type SnapshotReader = SnapshotReader<B>;
    type SnapshotWriter = SnapshotWriter<B>;

    fn version() -> String {
        B::VERSION.to_owned()
    }

    fn init(config: Vec<u8>) -> Result<(), String> {
        B::init(&config).map(set_state)
    }

    fn apply(commands: Vec<machine::Command>) -> Vec<machine::Outcome> {
        with_state(|backend: &mut B| commands.into_iter().map(|command| apply(backend, command)).collect())
    }

    fn query(request: Vec<u8>) -> machine::Answer {
        let (reply, watched) = with_state(|backend: &mut B| calls::query(backend, request));
        machine::Answer { reply, watched }
    }

    fn expire_session(index: u64, time_ms: u64, session: u64) -> Vec<Vec<u8>> {
        let mut at = Apply::at(index, time_ms);
        with_state(|backend: &mut B| backend.expire_session(session, &mut at));
        at.into_changed()
    }

    fn snapshot() -> machine::SnapshotReader {
        machine::SnapshotReader::new(SnapshotReader::<B>(RefCell::default()))
    }

    fn restore(origin: machine::Origin) -> Result<machine::SnapshotWriter, String> {
        let origin = Origin { version: origin.version, config: origin.config, migration: origin.migration };
        B::accept(&origin)?;
        let writer = B::begin(&origin)?;
        Ok(machine::SnapshotWriter::new(SnapshotWriter::<B>(RefCell::new(writer))))
    }
}

fn apply<B: Backend>(backend: &mut B, command: machine::Command) -> machine::Outcome {
    let at = Apply::at(command.index, command.time_ms).ephemeral(command.session);
    let (reply, changed) = calls::apply(backend, command.data, at);
    machine::Outcome { reply, changed }
}

/// The resource that a snapshot is read from.
pub struct SnapshotReader<B: Backend>(RefCell<B::Reader>);

impl<B: Backend> machine::GuestSnapshotReader for SnapshotReader<B> {
    fn next(&self, max_bytes: u32) -> Option<Vec<u8>> {
        with_state(|backend: &mut B| backend.next_chunk(&mut self.0.borrow_mut(), max_bytes as usize))
    }
}

/// The resource that a snapshot is written to.
pub struct SnapshotWriter<B: Backend>(RefCell<B::Writer>);

impl<B: Backend> machine::GuestSnapshotWriter for SnapshotWriter<B> {
    fn write(&self, chunk: Vec<u8>) -> Result<(), String> {
        B::take_chunk(&mut self.0.borrow_mut(), chunk)
    }

    fn finish(writer: machine::SnapshotWriter) -> Result<(), String> {
        let SnapshotWriter(writer) = writer.into_inner::<SnapshotWriter<B>>();
        B::finish(writer.into_inner()).map(set_state)
    }
}
