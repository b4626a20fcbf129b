//! A short story, cut at every change of it, and every attempt to recover from that cut at every change as well.

use super::node::Node;

/// What the node does after it was first started.
const ACTS: usize = 20;
const SEED: u64 = 1;
/// A story that is shorter has lost its point.
const LEAST_CHANGES: u64 = 150;

/// The node as it is when the power goes off at a change, and whether the story was over before.
fn until_change(change: u64) -> (Node, bool) {
    let mut node = Node::new(SEED).fork(change);
    node.disk.cut_after(change);
    let Some(mut journal) = node.open() else { return (node, false) };
    let is_over = (0..ACTS).all(|_| node.act(&mut journal).is_some());
    journal.close();
    (node, is_over)
}

/// Opens the store, goes on for a while, and is cut again: what was found is still there.
fn goes_on(mut node: Node) {
    let mut journal = node.open().expect("there is power");
    for _ in 0..4 {
        node.act(&mut journal).expect("there is power");
    }
    node.cut();
    node.open().expect("there is power");
}

#[test]
fn every_change_of_a_story_may_be_the_last_and_so_may_every_change_of_the_recovery() {
    let mut cuts = 0;
    for change in 0.. {
        let (mut node, is_over) = until_change(change);
        if is_over {
            assert!(change > LEAST_CHANGES, "the story has only {change} changes");
            break;
        }
        node.cut();
        for recovery_change in 0.. {
            let mut again = node.fork(recovery_change);
            again.disk.cut_after(recovery_change);
            cuts += 3;
            let is_recovered = again.open().is_some();
            again.cut();
            goes_on(again);
            if is_recovered {
                break;
            }
        }
    }
    println!("{cuts} power cuts");
}

/// What the killed process did not sync is there for the next one, which must not take it for durable.
#[test]
fn every_change_of_a_story_may_be_the_last_of_the_process_before_the_power_goes_off() {
    for change in 0.. {
        let (mut node, is_over) = until_change(change);
        if is_over {
            break;
        }
        node.kill();
        let mut idle = node.fork(change);
        idle.open().expect("there is power");
        idle.cut();
        goes_on(idle);
        goes_on(node);
    }
}
