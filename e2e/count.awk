# Sums the closing lines of cargo's runs and counts the tests of Go's packages: passed, failed, skipped.
/^test result:/ { passed += $4; failed += $6; skipped += $8 }
/^SKIPPED: /    { skipped++; passed-- }
/^SKIPPED TIER: / { skipped++ }
/^ok  /         { passed++ }
/^FAIL\t/       { failed++ }
END { printf "%d %d %d\n", passed, failed, skipped }
