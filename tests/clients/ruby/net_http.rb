# Ruby's Net::HTTP: asks for each URL and prints what came.
require 'net/http'

ARGV.each do |url|
  answer = Net::HTTP.get_response(URI(url))
  abort "#{url} answered #{answer.code}" unless answer.code == '200'
  puts "Cache-Status: #{answer['Cache-Status']}"
  puts answer.body
end
