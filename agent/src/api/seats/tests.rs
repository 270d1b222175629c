//! Tests of the seats.

use super::*;

const FILES: usize = 100_000;

fn peer(n: u8) -> Peer {
    Peer::remote([192, 0, 2, n].into())
}

fn seats(connections: usize, per_source: usize, opening: usize) -> Arc<Seats> {
    Seats::new(Limits { connections, per_source, opening, ..Limits::DEFAULT })
}

fn holds(seats: &Seats, seat: &Seat) -> bool {
    seats.table().entries.contains_key(&seat.id)
}

#[test]
fn a_source_at_its_cap_pushes_out_its_own_oldest() {
    let seats = seats(100, 2, 100);
    let other = seats.admit(peer(9), FILES).unwrap();
    let mine: Vec<_> = (0..4).map(|_| seats.admit(peer(1), FILES).unwrap()).collect();
    let left: Vec<_> = mine.iter().map(|s| holds(&seats, s)).collect();
    assert_eq!(left, [false, false, true, true]);
    assert!(holds(&seats, &other));
    assert_eq!(seats.losses(), [("connection-evicted-source", 2)]);
}

#[test]
fn the_source_with_most_loses_first_and_the_unix_socket_last() {
    let seats = seats(4, 100, 100);
    let local = seats.admit(Peer::Local(0), FILES).unwrap();
    let single = seats.admit(peer(1), FILES).unwrap();
    let flood: Vec<_> = (0..10).map(|_| seats.admit(peer(2), FILES).unwrap()).collect();
    assert!(holds(&seats, &local) && holds(&seats, &single));
    assert_eq!(flood.iter().filter(|s| holds(&seats, s)).count(), 2);
    assert_eq!(seats.len(), 4);
}

#[test]
fn work_under_way_is_never_pushed_out() {
    let seats = seats(2, 100, 100);
    let first = Arc::new(seats.admit(peer(1), FILES).unwrap());
    let second = Arc::new(seats.admit(peer(2), FILES).unwrap());
    let (busy, _other) = (first.busy(), second.busy());
    assert!(seats.admit(peer(3), FILES).is_none());
    assert!(!seats.evict_for_files());
    drop(busy);
    assert!(seats.admit(peer(3), FILES).is_some());
    assert!(!holds(&seats, &first) && holds(&seats, &second));
}

#[test]
fn those_that_never_asked_are_bounded_too() {
    let seats = seats(100, 100, 2);
    let asked = seats.admit(peer(1), FILES).unwrap();
    asked.touch();
    let silent: Vec<_> = (2..6).map(|n| seats.admit(peer(n), FILES).unwrap()).collect();
    assert!(holds(&seats, &asked));
    assert_eq!(silent.iter().filter(|s| holds(&seats, s)).count(), 2);
}

#[test]
fn few_file_descriptors_mean_few_connections() {
    let seats = seats(100, 100, 100);
    let all: Vec<_> = (0..20).map(|n| seats.admit(peer(n), 16).unwrap()).collect();
    assert_eq!(seats.len(), 8);
    drop(all);
    assert!(seats.is_empty());
    assert!(seats.table().per_source.is_empty() && seats.table().opening == 0);
}
