# Fails at each attempt, until it is told to give in.
use strict;
use warnings;

my $base = $ENV{HANDLER_BASE_DIR} || '/ion';
if ($ENV{GIVES_IN} ne 'yes') {
    print STDERR "no\n";
    exit 3;
}
open(my $kept, '>', "$base/out/data/kept.txt") or die "stubborn: $!\n";
print $kept "kept\n";
close($kept) or die "stubborn: $!\n";
print "yes\n";
