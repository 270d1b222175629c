//! Every MPTCP subflow ends with the grant of its connection.
