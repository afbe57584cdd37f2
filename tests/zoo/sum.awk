# Adds up what the tests of tests/suite/zoo say: "zoo: N exchanges with ORIGIN, D differences".
# Fails where a test failed or none ran.

{ print }
/^ *zoo: [0-9]+ exchanges with / { exchanges += $2; origins++; differences += $6 }
/^test result: FAILED|^error/ { failed = 1 }
END {
    printf "%d exchanges with %d origins, %d differences\n", exchanges, origins, differences
    exit failed || origins == 0
}
