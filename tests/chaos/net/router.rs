//! Carries packets from device to device, on a thread of its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tun_rs::AsyncDevice;

use super::rules::{Disturbance, Rules};

/// Most packets that wait for their time; more are dropped, as a real router's queue does.
const MAX_HELD_PACKETS: usize = 20_000;
const MAX_PACKET_BYTES: usize = 2048;

/// The thread that carries packets. It ends when this is dropped, and closes the devices.
pub struct Router {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Router {
    /// Carries packets between these places, numbered as [`Rules`] counts them. The devices were made in this runtime.
    pub fn start(
        runtime: Runtime,
        places: Vec<(Ipv4Addr, AsyncDevice)>,
        rules: Arc<Rules>,
        seed: u64,
    ) -> Result<Self, String> {
        let (stop, stopped) = oneshot::channel();
        let count = places.len();
        let state = State {
            held: BinaryHeap::new(),
            next: 0,
            delivered: vec![vec![0; count]; count],
            random: ChaCha8Rng::seed_from_u64(seed),
        };
        let switch = Arc::new(Switch { places, rules, state: Mutex::new(state), has_earlier: Notify::new() });
        let thread = std::thread::Builder::new().name("router".to_owned()).spawn(move || {
            runtime.block_on(async {
                for place in 0..count {
                    tokio::spawn(Arc::clone(&switch).take_from(place));
                }
                tokio::spawn(Arc::clone(&switch).release());
                // An error is the sender's end, which means the same.
                let _ = stopped.await;
            });
        });
        let thread = thread.map_err(|error| format!("cannot start the router: {error}"))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the router has panicked");
        }
    }
}

/// A runtime for the router and its devices.
pub fn runtime() -> Result<Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("cannot make a runtime: {error}"))
}

struct Switch {
    places: Vec<(Ipv4Addr, AsyncDevice)>,
    rules: Arc<Rules>,
    state: Mutex<State>,
    /// Told when a packet is held that is due before all others.
    has_earlier: Notify,
}

struct State {
    held: BinaryHeap<Reverse<Held>>,
    /// The number of the next packet.
    next: u64,
    /// The highest number that was delivered on each path.
    delivered: Vec<Vec<u64>>,
    random: ChaCha8Rng,
}

struct Held {
    due: Instant,
    packet: Packet,
}

struct Packet {
    number: u64,
    path: (usize, usize),
    held_by: Option<Arc<Disturbance>>,
    bytes: Vec<u8>,
}

impl Switch {
    async fn take_from(self: Arc<Self>, from: usize) {
        let mut buffer = [0; MAX_PACKET_BYTES];
        // A device fails when it is gone: then nothing comes from there any more.
        while let Ok(length) = self.places[from].1.recv(&mut buffer).await {
            let bytes = &buffer[..length];
            let Some(destination) = destination(bytes) else { continue };
            let Some(to) = self.places.iter().position(|(address, _)| *address == destination) else { continue };
            self.pass_on((from, to), bytes);
        }
    }

    fn pass_on(&self, path: (usize, usize), bytes: &[u8]) {
        let mut state = self.lock();
        let fate = self.rules.decide(path, &mut state.random);
        state.next += 1;
        for delay in fate.copies {
            let packet = Packet { number: state.next, path, held_by: fate.held_by.clone(), bytes: bytes.to_vec() };
            if delay == Duration::ZERO {
                self.deliver(&mut state, &packet);
            } else if state.held.len() < MAX_HELD_PACKETS {
                let due = Instant::now() + delay;
                let is_earliest = state.held.peek().is_none_or(|Reverse(first)| due < first.due);
                state.held.push(Reverse(Held { due, packet }));
                if is_earliest {
                    self.has_earlier.notify_one();
                }
            }
        }
    }

    /// Delivers held packets when they are due.
    async fn release(self: Arc<Self>) {
        loop {
            let next = self.lock().held.peek().map(|Reverse(held)| held.due);
            match next {
                None => self.has_earlier.notified().await,
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.has_earlier.notified() => {}
                },
            }
            let mut state = self.lock();
            let now = Instant::now();
            while state.held.peek().is_some_and(|Reverse(held)| held.due <= now) {
                if let Some(Reverse(held)) = state.held.pop() {
                    self.deliver(&mut state, &held.packet);
                }
            }
        }
    }

    fn deliver(&self, state: &mut State, packet: &Packet) {
        let (from, to) = packet.path;
        let highest = &mut state.delivered[from][to];
        if let Some(disturbance) = packet.held_by.as_ref().filter(|_| packet.number < *highest) {
            disturbance.bit();
        }
        *highest = packet.number.max(*highest);
        // A full device drops, as networks do; so does one of a node that is being taken down.
        let _ = self.places[to].1.try_send(&packet.bytes);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an IPv4 packet wants to go; none for all else, such as IPv6's search for routers.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let is_v4 = packet.first()? >> 4 == 4;
    let bytes: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    is_v4.then(|| Ipv4Addr::from(bytes))
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.packet.number).cmp(&(other.due, other.packet.number))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Held {}
