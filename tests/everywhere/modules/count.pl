# How many words and lines a page has: an event without files, and an insight.
use strict;
use warnings;

my $base = $ENV{HANDLER_BASE_DIR} || '/ion';

sub slurp {
    my ($path) = @_;
    open(my $file, '<:raw', $path) or die "count: $path: $!\n";
    local $/ = undef;
    my $text = <$file>;
    return defined $text ? $text : '';
}

sub texts {
    my ($directory) = @_;
    opendir(my $entries, $directory) or die "count: $directory: $!\n";
    my @names = sort grep { !/^\.\.?$/ } readdir($entries);
    return map { -d "$directory/$_" ? texts("$directory/$_") : slurp("$directory/$_") } @names;
}

my ($text, @more) = texts("$base/in/data");
die "count: expected one page\n" if !defined $text || @more;
my ($page) = slurp("$base/in/eventmeta.json") =~ /"key":\s*"page",\s*"value":\s*"(\d+)"/ or die "count: no page\n";
my $words = () = $text =~ /\S+/g;
my $lines = () = $text =~ /\n/g;
open(my $event, '>', "$base/out/events/counted") or die "count: $!\n";
print $event qq([{"key":"eventType","value":"page.counted"},{"key":"page","value":"$page"},{"key":"words","value":"$words"}]);
close($event) or die "count: $!\n";
open(my $insights, '>', "$base/out/insights.json") or die "count: $!\n";
print $insights qq([{"key":"words","value":"$words"},{"key":"lines","value":"$lines"}]);
close($insights) or die "count: $!\n";
print "page $page: $words words\n";
