//! Tests of the connections.

use super::*;

const FILES: usize = 100_000;

fn peer(n: u8) -> Peer {
    Peer::remote([192, 0, 2, n].into())
}

fn connections(connections: usize, per_source: usize, opening: usize) -> Arc<Connections> {
    Connections::new(Limits { connections, per_source, opening, ..Limits::DEFAULT })
}

fn holds(connections: &Connections, connection: &Connection) -> bool {
    connections.table().entries.contains_key(&connection.id)
}

#[test]
fn a_source_at_its_cap_pushes_out_its_own_oldest() {
    let connections = connections(100, 2, 100);
    let other = connections.admit(peer(9), FILES).unwrap();
    let mine: Vec<_> = (0..4).map(|_| connections.admit(peer(1), FILES).unwrap()).collect();
    let left: Vec<_> = mine.iter().map(|s| holds(&connections, s)).collect();
    assert_eq!(left, [false, false, true, true]);
    assert!(holds(&connections, &other));
    assert_eq!(connections.losses(), [("connection-evicted-source", 2)]);
}

#[test]
fn the_source_with_most_loses_first_and_the_unix_socket_last() {
    let connections = connections(4, 100, 100);
    let local = connections.admit(Peer::Local(0), FILES).unwrap();
    let single = connections.admit(peer(1), FILES).unwrap();
    let flood: Vec<_> = (0..10).map(|_| connections.admit(peer(2), FILES).unwrap()).collect();
    assert!(holds(&connections, &local) && holds(&connections, &single));
    assert_eq!(flood.iter().filter(|s| holds(&connections, s)).count(), 2);
    assert_eq!(connections.len(), 4);
}

#[test]
fn work_under_way_is_never_pushed_out() {
    let connections = connections(2, 100, 100);
    let first = Arc::new(connections.admit(peer(1), FILES).unwrap());
    let second = Arc::new(connections.admit(peer(2), FILES).unwrap());
    let (busy, _other) = (first.busy(), second.busy());
    assert!(connections.admit(peer(3), FILES).is_none());
    assert!(!connections.evict_for_files());
    drop(busy);
    assert!(connections.admit(peer(3), FILES).is_some());
    assert!(!holds(&connections, &first) && holds(&connections, &second));
}

#[test]
fn those_that_never_asked_are_bounded_too() {
    let connections = connections(100, 100, 2);
    let asked = connections.admit(peer(1), FILES).unwrap();
    asked.touch();
    let silent: Vec<_> = (2..6).map(|n| connections.admit(peer(n), FILES).unwrap()).collect();
    assert!(holds(&connections, &asked));
    assert_eq!(silent.iter().filter(|s| holds(&connections, s)).count(), 2);
}

#[test]
fn few_file_descriptors_mean_few_connections() {
    let connections = connections(100, 100, 100);
    let all: Vec<_> = (0..20).map(|n| connections.admit(peer(n), 16).unwrap()).collect();
    assert_eq!(connections.len(), 8);
    drop(all);
    assert!(connections.is_empty());
    assert!(connections.table().per_source.is_empty() && connections.table().opening == 0);
}
