//! Nodes that are stopped as operators stop them: nobody loses a request by it.

use crate::harness::Nodes;
use crate::load::Load;

#[test]
fn leaders_are_restarted_one_after_another_under_load_and_nobody_loses_a_request() {
    let mut nodes = Nodes::start(3);
    nodes.create("kv", "kv", &[]);
    let load = Load::start(&nodes);
    for _ in 0..3 {
        load.until_answered(500);
        let leader = nodes.leader("kv");
        assert!(nodes.terminate(leader), "{}", nodes.log(leader));
        load.until_answered(500);
        nodes.start_node(leader);
        nodes.leader("kv");
    }
    let (answered, longest) = load.end(&nodes);
    println!("of {answered} requests the longest took {longest:?}");
    nodes.until_equal("kv");
}
